"""All servers of a run: started or attached to, watched, and kept on the newest weights."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from phronesis.engine.vllm.ask import Dialect
from phronesis.engine.vllm.config import VLLMConfig
from phronesis.engine.vllm.control import Control, VLLMControl
from phronesis.engine.vllm.launch import RELOAD, Launched
from phronesis.engine.vllm.routing import Router
from phronesis.engine.vllm.server import Server
from phronesis.engine.vllm.sglang import SGLangControl, SGLangRoute
from phronesis.engine.vllm.weights import Target, WeightFolders
from phronesis.engine.vllm.wire import CompletionsRoute, TokenRoute
from phronesis.errors import ConfigError, PolicyFault

log = logging.getLogger(__name__)

DIALECTS: dict[str, Callable[[], Dialect]] = {"tokens": TokenRoute, "completions": CompletionsRoute, "sglang": SGLangRoute}
"""Wire formats by the name the settings give them."""


class Fleet:
    """Servers that answer for one another."""

    def __init__(self, config: VLLMConfig, folder: Path | None = None):
        """Nothing is started or asked yet.

        Args:
            config: which servers.
            folder: where the output of started servers goes; None means the working directory.

        Raises:
            ConfigError: settings that cannot work, or a key that is not set.
        """
        config.validate()
        self.config = config
        self.router = Router(config.spread)
        """Where requests go."""
        self.target: Target | None = None
        """None leaves the servers' weights alone."""
        self.servers: list[Server] = []
        """Attached first, then started ones."""
        self.retries: Counter[str] = Counter()
        """Requests asked again, by reason."""
        self.restarted = 0
        """Servers started again after they died."""
        self.updates = 0
        """Times weights were given to a server."""
        self.folders = WeightFolders(config.weights)
        """Where weights are written for the servers."""
        self._folder = folder or Path()
        self._launched: dict[int, Launched] = {}
        self._left: dict[int, int] = {}
        self._retry: dict[str, float] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._changed: asyncio.Event | None = None
        self._key = _key(config)

    @property
    def opened(self) -> bool:
        """Whether `open` was called."""
        return bool(self.servers)

    @property
    def account(self) -> str:
        """What was done besides answering, in words; empty when nothing was."""
        parts = [f"{n} requests asked again for {reason}" for reason, n in self.retries.most_common()]
        parts += [f"{self.restarted} servers started again"] if self.restarted else []
        parts += [f"{self.router.moves} moves of an episode to another server"] if self.router.moves else []
        return ", ".join(parts)

    @property
    def launched(self) -> list[Launched]:
        """Servers started here."""
        return list(self._launched.values())

    @property
    def ready(self) -> list[Server]:
        """Servers that answer and have the newest weights."""
        return [s for s in self.servers if self._fit(s)]

    @property
    def context(self) -> int:
        """Ids every server's context holds; of those that ever answered."""
        return min((s.facts.context for s in self.servers if s.facts is not None), default=0)

    async def open(self, model: Path | None) -> None:
        """Starts or attaches, and waits until every server answers.

        Args:
            model: what started servers open with.

        Raises:
            ConfigError: servers are to be started without a model, or the interpreter is missing.
            PolicyFault: one did not come up.
        """
        if self.opened:
            return
        for url in self.config.urls:
            foreign = self.config.route == "sglang"
            self.servers.append(self._server(url, SGLangControl() if foreign else VLLMControl(self.config.reload)))
        for index in range(self.config.servers):
            if model is None:
                raise ConfigError("started vLLM servers need a model; attach to servers by urls instead")
            self._launched[index] = Launched(self.config, index, model, self._folder)
            self._left[index] = self.config.restarts
            self.servers.append(self._server(self._launched[index].url, VLLMControl(RELOAD)))
        began, wait = time.monotonic(), self.config.start_seconds if self.config.servers else self.config.recover_seconds
        try:
            while not all(s.alive for s in self.servers):
                await asyncio.gather(*(s.look() for s in self.servers if not s.alive))
                for launched in self._launched.values():
                    if not launched.running:
                        raise PolicyFault(f"vLLM server {launched.url} ended while starting; {launched.log}:\n{launched.tail}")
                if time.monotonic() - began > wait:
                    silent = [s.url for s in self.servers if not s.alive]
                    raise PolicyFault(f"vLLM servers {silent!r} did not answer within {wait:g} s; look at their logs")
                await asyncio.sleep(0.0 if all(s.alive for s in self.servers) else 0.5)
        except BaseException:
            await self.close()
            raise
        log.info("%d vLLM servers are ready after %.1f s", len(self.servers), time.monotonic() - began)
        self._watch()

    async def give(self, target: Target) -> float:
        """Gives every server new weights; returns the seconds it took.

        A server that fails to take them leaves the rotation and is tried again later.

        Raises:
            PolicyFault: no server took them in time.
        """
        self.target = target
        began = time.monotonic()
        await asyncio.gather(*(self._give(s, target) for s in self.servers if s.alive))
        if not self.ready:
            await self.wait()
        self._notify()
        return time.monotonic() - began

    async def wait(self) -> None:
        """Waits until a server can answer.

        Raises:
            PolicyFault: none could for `recover_seconds`.
        """
        self._watch()
        try:
            async with asyncio.timeout(self.config.recover_seconds):
                while not self.ready:
                    assert self._changed is not None
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            states = {s.url: s.trouble or "it has other weights" for s in self.servers}
            raise PolicyFault(
                f"no vLLM server could answer for {self.config.recover_seconds:g} s: {states!r}; look at their logs"
            ) from None

    def suspect(self, server: Server, why: str) -> None:
        """A request to it failed as if it were gone: it is looked at before it is asked again."""
        server.lost(why)
        self._watch()

    def outdated(self, server: Server, label: str) -> None:
        """It sampled with other weights than it should have: it gets the right ones before it is asked again."""
        log.warning("vLLM server %s sampled with weights %r, not those of %r", server.url, label, self.target)
        server.label = None

    async def close(self) -> None:
        """Stops what was started, lets go of the rest, removes the weights written."""
        if self._watcher is not None and self._watcher.get_loop() is asyncio.get_running_loop():
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        self._watcher = None
        for server in self.servers:
            await server.close()
        await asyncio.gather(*(asyncio.to_thread(launched.stop) for launched in self._launched.values()))
        self._launched.clear()
        self.servers.clear()
        self.folders.remove()
        self.target = None

    def _server(self, url: str, control: Control) -> Server:
        return Server(url, DIALECTS[self.config.route](), control, self.config, self._key)

    def _fit(self, server: Server) -> bool:
        return server.alive and (self.target is None or server.label == self.target.label)

    async def _give(self, server: Server, target: Target) -> None:
        if server.label == target.label:
            return
        if await server.give(target):
            self.updates += 1
        else:
            self._retry[server.url] = time.monotonic() + self.config.health_seconds

    def _watch(self) -> None:
        """Keeps the watcher of this event loop running."""
        loop = asyncio.get_running_loop()
        if self._watcher is None or self._watcher.done() or self._watcher.get_loop() is not loop:
            self._changed = asyncio.Event()
            self._watcher = loop.create_task(self._keep())

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()

    async def _keep(self) -> None:
        """Looks at every server again and again."""
        while True:
            await asyncio.gather(*(self._tend(i) for i in range(len(self.servers))))
            if self.ready:
                self._notify()
            await asyncio.sleep(self.config.health_seconds if all(map(self._fit, self.servers)) else 0.2)

    async def _tend(self, i: int) -> None:
        """One server: started again where it died, asked whether it is there, given the weights it lacks."""
        server, index = self.servers[i], i - len(self.config.urls)
        launched = self._launched.get(index)
        if launched is not None and not launched.running and self.target is not None and self._left[index] > 0:
            self._left[index] -= 1
            self.restarted += 1
            log.warning("vLLM server %s died; starting it again (%d left). %s", server.url, self._left[index], launched.log)
            await asyncio.to_thread(launched.stop)
            self._launched[index] = again = Launched(self.config, index, self.target.folder, self._folder)
            await server.close()
            self.servers[i] = server = self._server(again.url, VLLMControl(RELOAD))
        was, target = server.alive, self.target
        await server.look()
        due = time.monotonic() >= self._retry.get(server.url, 0.0)
        if server.alive and target is not None and server.label != target.label and due:
            await self._give(server, target)
        if server.alive and not was:
            log.info("vLLM server %s is in rotation", server.url)


def _key(config: VLLMConfig) -> str | None:
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env)
    if not key:
        raise ConfigError(f"engine.vllm.api_key_env names {config.api_key_env!r}, which is not set in the environment")
    return key
