"""The environment `served`: another one, whose episodes are played by services, here or on other machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from phronesis.env import Env, EnvSpec
from phronesis.envs import registry
from phronesis.envs.services.directory import Directory, current
from phronesis.envs.services.env import Patience, ServedEnv
from phronesis.envs.services.identity import Identity, identify
from phronesis.envs.services.known import World
from phronesis.envs.services.remote import about, spec_of
from phronesis.envs.services.wire import Registration
from phronesis.errors import ConfigError

NAME = "served"
"""In the registry."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """Begins episodes of a world that services play; what `EnvSpec.make` of a served environment is."""

    name: str
    """Under which services register."""
    identity: Identity
    """What they must play."""
    local: EnvSpec | None
    """The same world, in this process; None where its code is only at the services."""
    patience: Patience
    """How long to wait."""
    fixed: tuple[Registration, ...] = ()
    """Services that are there without registering."""
    _own: Directory = field(default_factory=Directory)

    def __call__(self) -> Env:
        """A fresh episode. Where no service can be meant, neither one that registers with a run nor a fixed one, the code at
        hand plays: it is the same world."""
        directory = current()
        if directory is None and not self.fixed and self.local is not None:
            return self.local.make()
        directory = self._own if directory is None else directory
        return ServedEnv(directory, self.expected(directory), self.patience)

    def expected(self, directory: Directory) -> World:
        """Makes the directory expect services of this world."""
        world = directory.expect(self.name, self.identity)
        if self.fixed:
            known = {s.about.url for s in directory.services(world)}
            for one in self.fixed:
                if one.url not in known:
                    directory.register(one, fixed=True)
        return world


def make(
    env: str,
    args: dict[str, Any] | None = None,
    *,
    at: list[str] | None = None,
    code: Literal["here", "there"] = "here",
    wait_seconds: float = 600.0,
    call_seconds: float = 600.0,
) -> EnvSpec:
    """An environment whose episodes are played by services (``phronesis env serve``).

    Tasks, rubric and demonstrations come from the code at hand; only a service that plays the same (name, arguments, version,
    first tasks) is accepted. Evaluation of a finished run, replay and checks play with the code at hand.

    Args:
        env: name or import path of what is played.
        args: its arguments.
        at: addresses of services that are there without registering, e.g. ``["http://b1:8500"]``. They are asked at once who
            they are.
        code: ``there``: this machine lacks the code, and the services at `at` give tasks, rewards and demonstrations, too.
        wait_seconds: longest time in which no episode gets a place at a service, before waiting for one is a fault.
        call_seconds: longest one call of a service may take.

    Raises:
        ConfigError: a number that is not positive, an environment that is served itself, code that is nowhere, or a service
            that cannot be reached or plays something else.
    """
    if wait_seconds <= 0 or call_seconds <= 0:
        raise ConfigError(f"wait_seconds {wait_seconds!r} and call_seconds {call_seconds!r} must be positive")
    if env == NAME:
        raise ConfigError("a served environment is played by services already; name the one they play")
    patience, urls = Patience(place_seconds=wait_seconds, call_seconds=call_seconds), [u.rstrip("/") for u in at or ()]
    if code == "there":
        if not urls:
            raise ConfigError('with code = "there" somebody must give the tasks; say where services are: at = ["http://…"]')
        said = about(urls[0])
        asked = Identity(env=env, args=dict(args or {}), version=said.identity.version, tasks=said.identity.tasks)
        if wrong := asked.differs(said.identity):
            raise ConfigError(f"the service at {urls[0]} plays something else: {wrong}")
        fixed = _fixed(urls, said.identity)
        served = Served(name=env, identity=said.identity, local=None, patience=patience, fixed=fixed)
        return spec_of(urls, said, served)
    local = registry.get(env, args)
    identity = identify(env, args or {}, local)
    served = Served(name=env, identity=identity, local=local, patience=patience, fixed=_fixed(urls, identity))
    return replace(local, make=served)


def served_in(spec: EnvSpec) -> list[Served]:
    """What services play of an environment: itself, or parts of a mixture."""
    parts = [spec, *spec.parts.values()]
    return [s.make for s in parts if isinstance(s.make, Served)]


def _fixed(urls: Sequence[str], identity: Identity) -> tuple[Registration, ...]:
    """Services at known addresses, asked who they are.

    Raises:
        ConfigError: one cannot be reached, or plays something else.
    """
    found = list[Registration]()
    for url in urls:
        said = about(url)
        if wrong := identity.differs(said.identity):
            raise ConfigError(f"the service at {url} plays something else: {wrong}")
        found.append(
            Registration(name=identity.env, url=url, capacity=said.capacity, identity=identity, abilities=said.abilities)
        )
    return tuple(found)
