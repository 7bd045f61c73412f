"""Ray: the only file that imports it. Rollout workers are actors, weights one object in its store.

A cluster of this machine is started where none is named: without dashboard and without usage statistics, and it ends with the
run. Actors are never restarted by Ray itself: who died, and when somebody takes the place, is the staff's to decide.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from phronesis.cluster.hosting import EnvWorker, Hosts, Said
from phronesis.cluster.plan import Plan, Recipe
from phronesis.cluster.ranks import RankWorker
from phronesis.cluster.remote import Facts, Pulse, WorkerGone
from phronesis.cluster.worker import RolloutWorker
from phronesis.errors import ClusterError, ConfigError, PhronesisError, RankFailed, one_line
from phronesis.train.group.config import LearnerGroupConfig
from phronesis.train.group.processes import store
from phronesis.train.group.wire import Joining
from phronesis.train.workers import ClusterConfig, PlaceConfig

log = logging.getLogger(__name__)
T = TypeVar("T")

LOCAL = "local"
"""The address that means a new cluster of this machine."""
QUIET: dict[str, object] = {"env_vars": {"OMP_WAIT_POLICY": "passive"}}
"""Threads that wait do not spin: workers share processors."""
CALLS = 10_000
"""Calls an actor takes at once; what is played at once is bounded by slots."""


class Call(Protocol):
    """A method of an object elsewhere."""

    def remote(self, *arguments: object) -> Awaitable[object]:
        """Begins the call."""
        ...


class Actor(Protocol):
    """An object in a process elsewhere."""

    def __getattr__(self, name: str) -> Call:
        """One of its methods."""
        ...


def _ray() -> ModuleType:
    """Ray, if it is installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("workers elsewhere need Ray; install it with: pip install 'phronesis[ray]'") from error


def connected() -> bool:
    """Whether this process is part of a Ray cluster already."""
    return bool(_ray().is_initialized())


def connect(address: str, config: ClusterConfig, weights: int = 0) -> bool:
    """Joins a cluster, or starts one of this machine.

    Args:
        address: ``local`` starts one; ``auto`` finds one that runs on this machine; else ``HOST:PORT`` or ``ray://HOST:PORT``.
        config: what a local one must have room for.
        weights: bytes of one copy of the weights; the object store of a local one holds at least three.

    Returns:
        Whether it was joined here; False where this process was part of one before.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    ray = _ray()
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, object] = {"log_to_driver": False, "configure_logging": False, "include_dashboard": False}
    if address == LOCAL:
        options |= {"num_cpus": _cpus(config), "object_store_memory": max(config.store_bytes, 3 * weights)}
        options |= {"resources": _resources(config), "labels": dict(config.worker.labels) or None}
    else:
        del options["include_dashboard"]
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"no Ray cluster at {address!r}: {one_line(error)}; start one with: ray start --head") from error
    return True


def disconnect() -> None:
    """Leaves the cluster; one of this machine ends."""
    _ray().shutdown()


def _most(config: ClusterConfig) -> int:
    return config.workers if config.scale is None else max(config.scale.most, config.workers)


def _cpus(config: ClusterConfig) -> int:
    """Logical CPUs a cluster of this machine offers: those there are, or as many as all workers reserve."""
    asked = _most(config) * config.worker.cpus + config.env_workers * config.env_worker.cpus
    return max(os.cpu_count() or 1, -(-int(1000 * asked) // 1000))


def _resources(config: ClusterConfig) -> dict[str, float]:
    """Custom resources a cluster of this machine offers: what all workers reserve."""
    found: dict[str, float] = {}
    for place, count in ((config.worker, _most(config)), (config.env_worker, config.env_workers)):
        for name, amount in place.resources.items():
            found[name] = found.get(name, 0.0) + amount * count
    return found


def options(place: PlaceConfig, restarts: int = 0) -> dict[str, object]:
    """How an actor is placed, and how often Ray starts it again (−1: always)."""
    found: dict[str, object] = {"num_cpus": place.cpus, "num_gpus": place.gpus, "resources": dict(place.resources)}
    if place.labels:
        found["label_selector"] = dict(place.labels)
    found["scheduling_strategy"] = "SPREAD" if place.spread else "DEFAULT"
    return found | {"max_restarts": restarts, "max_task_retries": 0, "max_concurrency": CALLS}


def actor(cls: type[object], placing: dict[str, object], *arguments: object) -> Actor:
    """Begins to start an object of a class in a process elsewhere; its coroutines can be called with ``.remote``."""
    made = _ray().remote(cls).options(**placing, runtime_env=QUIET)
    return made.remote(*arguments)


async def answer(reference: Awaitable[object], kind: type[T]) -> T:
    """What a call of an actor gives.

    Args:
        reference: the call.
        kind: what it gives.

    Raises:
        WorkerGone: the actor is dead, or went away before it answered.
        PhronesisError: the call raised it.
        ClusterError: the call raised anything else.
    """
    ray = _ray()
    try:
        return cast("T", await reference)
    except asyncio.CancelledError:
        ray.cancel(reference)
        raise
    except ray.exceptions.RayActorError as error:
        raise _gone(error) from error
    except (ray.exceptions.ObjectLostError, ray.exceptions.NodeDiedError, ray.exceptions.WorkerCrashedError) as error:
        raise WorkerGone(one_line(error)) from error
    except ray.exceptions.RayTaskError as error:
        cause = cast("BaseException", error.cause)
        if isinstance(cause, PhronesisError):
            raise cause from error
        raise ClusterError(f"a worker failed: {type(cause).__name__}: {one_line(cause)}") from error


def _gone(error: BaseException) -> WorkerGone:
    """The death of an actor, without its many numbers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    facts = ("class_name:", "actor_id:", "namespace:", "ip:", "pid:", "name:")
    told = [line for line in lines if not line.startswith(facts)]
    return WorkerGone(one_line(Exception(" ".join(told))))


class RayWorker:
    """Implements `phronesis.cluster.remote.Remote` over an actor."""

    def __init__(self, handle: Actor):
        self._handle = handle

    async def ready(self) -> Facts:
        """Waits until it can be asked."""
        return await answer(self._handle.ready.remote(), Facts)

    async def take(self, weights: object, version: int) -> int:
        """Gives it weights from the object store."""
        return await answer(self._handle.take.remote(weights, version), int)

    async def play(self, order: bytes) -> bytes:
        """Plays one episode."""
        return await answer(self._handle.play.remote(order), bytes)

    async def judge(self, group: bytes, seconds: float) -> bytes:
        """Scores a group."""
        return await answer(self._handle.judge.remote(group, seconds), bytes)

    async def pulse(self) -> Pulse:
        """How it is."""
        return await answer(self._handle.pulse.remote(), Pulse)

    def kill(self) -> None:
        """Ends it at once."""
        _ray().kill(self._handle)


class RayRanks:
    """Implements `phronesis.train.group.processes.Ranks` over actors, placed together."""

    shares_memory = False

    def __init__(self, config: LearnerGroupConfig, *, place: PlaceConfig):
        """Starts them and lets them meet.

        Args:
            config: of the group.
            place: what each rank occupies.

        Raises:
            RankFailed: the cluster has no room for all of them at once, or one did not come up.
        """
        ray = _ray()
        self.config = config
        self._closed = threading.Lock()
        self._actors: list[Actor] = []
        bundle = {"CPU": place.cpus, **({"GPU": place.gpus} if place.gpus else {}), **place.resources}
        selectors = [dict(place.labels)] * config.ranks if place.labels else None
        self._group = ray.util.placement_group(
            [bundle] * config.ranks, strategy="SPREAD" if place.spread else "PACK", bundle_label_selector=selectors
        )
        if not self._group.wait(timeout_seconds=config.timeout):
            self.close()
            raise RankFailed(f"the cluster had no room for {config.ranks} x {bundle!r} at once within {config.timeout:g} s")
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        made = ray.remote(RankWorker)
        for rank in range(config.ranks):
            inside = strategies.PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=rank)
            asked = {"num_cpus": place.cpus, "num_gpus": place.gpus, "resources": dict(place.resources)}
            self._actors.append(made.options(**asked, scheduling_strategy=inside, runtime_env=QUIET).remote())
        host = config.host if len(ray.nodes()) == 1 else str(ray.util.get_node_ip_address())
        self._store, address = store(host, config.port, config.timeout)
        threads = config.threads or max(int(place.cpus), 1)
        self._ask("setup", [
            msgspec.msgpack.encode(Joining(
                rank=rank, world=config.ranks, address=address, backend=config.backend, threads=threads, timeout=config.timeout,
            ))
            for rank in range(config.ranks)
        ])  # fmt: skip

    def ask(self, name: str, body: bytes = b"") -> list[bytes]:
        """See `Ranks.ask`."""
        return self._ask(name, [_ray().put(body)] * len(self._actors))

    def close(self) -> None:
        """See `Ranks.close`."""
        if self._closed.acquire(blocking=False):
            ray = _ray()
            for actor_ in self._actors:
                ray.kill(actor_)
            ray.util.remove_placement_group(self._group)

    def _ask(self, name: str, bodies: Sequence[object]) -> list[bytes]:
        ray = _ray()
        if self._closed.locked():
            raise RankFailed("the learner group is closed; continue from the newest checkpoint with --resume")
        asked = [a.ask.remote(name, body) for a, body in zip(self._actors, bodies, strict=True)]
        left, deadline = list(asked), time.monotonic() + self.config.timeout
        advice = "No weight of the run was changed; continue from its newest checkpoint with --resume"
        try:
            while left:
                done, left = ray.wait(left, num_returns=1, timeout=max(deadline - time.monotonic(), 0.0))
                if not done:
                    raise RankFailed(f"ranks did not answer {name!r} within {self.config.timeout:g} s. {advice}")
                ray.get(done)
            return [bytes(answer) for answer in ray.get(asked)]
        except ray.exceptions.RayTaskError as error:
            self.close()
            if isinstance(error.cause, PhronesisError):
                raise error.cause from error
            raise RankFailed(f"a rank, asked for {name!r}, broke: {one_line(error.cause)}\n{advice}") from error
        except (ray.exceptions.RayError, RankFailed) as error:
            self.close()
            if isinstance(error, RankFailed):
                raise
            raise RankFailed(f"a rank, asked for {name!r}, died: {_gone(error)}\n{advice}") from error


@dataclass(frozen=True)
class RayHost:
    """Implements `phronesis.cluster.hosting.Host` over an actor, which Ray starts again when it dies; travels to workers."""

    handle: Actor
    """The actor."""

    async def abilities(self) -> Mapping[str, Sequence[str]]:
        """By environment, what it can do besides the three methods."""
        return await answer(self.handle.abilities.remote(), dict[str, tuple[str, ...]])

    async def open(self, env: str, id: str) -> Said:
        """Makes the environment of an episode."""
        return await answer(self.handle.open.remote(env, id), Said)

    async def ask(self, env: str, id: str, method: str, call: bytes) -> Said:
        """One call of it."""
        return await answer(self.handle.ask.remote(env, id, method, call), Said)

    async def close(self, env: str, id: str) -> None:
        """Closes it."""
        await answer(self.handle.close.remote(env, id), type(None))


@asynccontextmanager
async def hosting(recipe: Recipe, config: ClusterConfig) -> AsyncGenerator[Hosts | None]:
    """Environment workers, while it lasts; None where the settings ask for none.

    Raises:
        ConfigError: their node cannot make the environment.
        ClusterError: they do not come up.
    """
    if not config.env_workers:
        yield None
        return
    placing, seconds = options(config.env_worker, restarts=-1), recipe.config.limits.env_seconds
    hosts = tuple(RayHost(actor(EnvWorker, placing, recipe, seconds)) for _ in range(config.env_workers))
    try:
        try:
            async with asyncio.timeout(config.start_seconds):
                able = await asyncio.gather(*(host.abilities() for host in hosts))
        except (WorkerGone, TimeoutError) as error:
            raise ClusterError(f"environment workers did not start within {config.start_seconds:g} s: {error}") from error
        yield Hosts(hosts, able[0], config.start_seconds)
    finally:
        for host in hosts:
            _ray().kill(host.handle)


class RayBackend:
    """Implements `phronesis.cluster.remote.Backend`."""

    def __init__(self, plan: Plan, config: ClusterConfig, hosts: Hosts | None = None):
        """Puts the plan where every worker can read it.

        Args:
            plan: of the run.
            config: what workers occupy.
            hosts: where environments live; None plays them in the workers.
        """
        self._config, self._hosts = config, hosts
        self._plan = _ray().put(plan)

    def start(self, index: int) -> RayWorker:
        """Begins to start a rollout worker."""
        return RayWorker(actor(RolloutWorker, options(self._config.worker), self._plan, self._hosts))

    def put(self, bucket: NDArray[np.uint8]) -> object:
        """One copy into the object store, which workers of this node read without copying.

        Raises:
            ClusterError: the store is full or gone.
        """
        ray = _ray()
        try:
            return ray.put(bucket)
        except ray.exceptions.RayError as error:
            raise ClusterError(f"the object store takes no weights ({bucket.nbytes} bytes): {one_line(error)}") from error

    def ask_room(self, workers: int) -> None:
        """Tells the autoscaler, where the cluster has one, which otherwise hears of it when workers cannot be placed."""
        sdk = importlib.import_module("ray.autoscaler.sdk")
        place = self._config.worker
        bundle = {"CPU": place.cpus, **({"GPU": place.gpus} if place.gpus else {}), **place.resources}
        try:
            sdk.request_resources(bundles=[bundle] * workers)
        except Exception as error:  # a hint, on which nothing depends
            log.info("the autoscaler was not told of %d workers: %s", workers, one_line(error))

    def room(self) -> str:
        """What is free, and what a worker asks."""
        ray, place = _ray(), self._config.worker
        free = {name: n for name, n in ray.available_resources().items() if name in ("CPU", "GPU", *place.resources)}
        asked = {"CPU": place.cpus, "GPU": place.gpus, **place.resources}
        return f"it asks {asked!r}, free are {free!r}"
