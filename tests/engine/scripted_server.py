"""An HTTP server in the test process that does what its script says, faults included."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Said:
    """One answer of the script."""

    status: int = 200
    body: object = None
    """Sent as JSON; bytes are sent as they are."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    delay: float = 0.0
    """Seconds before the answer begins."""
    cut: int | None = None
    """Bytes of the body after which the connection drops; None sends all."""
    drop: bool = False
    """The connection drops without an answer."""


def events(*data: object, cut: int | None = None, names: Sequence[str] = ()) -> Said:
    """An answer of server-sent events; texts are sent as they are, everything else as JSON."""
    lines = [d if isinstance(d, str) else json.dumps(d) for d in data]
    named = [f"event: {names[i]}\n" if i < len(names) else "" for i in range(len(lines))]
    body = "".join(f"{n}data: {line}\n\n" for n, line in zip(named, lines, strict=True)).encode()
    return Said(body=body, headers={"content-type": "text/event-stream"}, cut=cut)


@dataclass
class Heard:
    """One request the server got."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


Script = Sequence[Said] | Callable[[Heard], Said]


class ScriptedServer:
    """Answers by script: a list (the last entry repeats) or a function of the request."""

    def __init__(self, script: Script):
        self.script = script
        self.heard: list[Heard] = []
        self.busy = 0
        self.most_busy = 0
        self.url = ""
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def stop(self) -> None:
        """Drops every connection."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        heard = Heard(method, path, headers, json.loads(content) if content else None)
        self.heard.append(heard)
        said = self.script(heard) if callable(self.script) else self.script[min(len(self.heard), len(self.script)) - 1]
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        await asyncio.sleep(said.delay)
        self.busy -= 1
        return False if said.drop else await self._send(writer, said)

    async def _send(self, writer: asyncio.StreamWriter, said: Said) -> bool:
        body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
        sent = {"content-type": "application/json", "content-length": str(len(body))} | said.headers
        lines = [f"HTTP/1.1 {said.status} Scripted", *(f"{k}: {v}" for k, v in sent.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + (body if said.cut is None else body[: said.cut]))
        await writer.drain()
        return said.cut is None


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncIterator[ScriptedServer]:
    """A server on a free port of this machine."""
    scripted = ScriptedServer(script)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield scripted
    finally:
        server.close()
        await scripted.stop()


@contextlib.contextmanager
def serving_apart(script: Script) -> Iterator[ScriptedServer]:
    """A server in a thread of its own, for commands that bring their event loop."""
    ready, stop = threading.Event(), asyncio.Event()
    found: list[ScriptedServer] = []

    async def main() -> None:
        async with serving(script) as server:
            found.append(server)
            loops.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()

    loops: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield found[0]
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)
