"""Packets with descriptors between the host and the first process of a box, without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from typing import Any, cast

from phronesis.errors import SandboxFault
from phronesis.sandbox.inside.init import PACKET

Answer = tuple[dict[str, Any], list[int]]
"""What was said, and the descriptors that came with it."""


class Refused(SandboxFault):
    """The box is well; what was asked cannot be done: there is no such file, or no room."""

    def __init__(self, text: str, errno: int | None = None):
        super().__init__(text)
        self.errno = errno


class Channel:
    """Questions by number; each has one answer, which may carry a descriptor."""

    def __init__(self, ours: socket.socket, name: str):
        self.ours, self.name = ours, name
        ours.setblocking(False)
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(ours, self._read)
        self.waiting: dict[int, asyncio.Future[Answer]] = {}
        self.last = 0
        self.closed = False

    async def ask(self, op: str, descriptors: tuple[int, ...] = (), **fields: object) -> Answer:
        """Sends a question and waits for its answer.

        Raises:
            SandboxFault: the box is gone, or it could not do this.
        """
        return await self.sent(op, descriptors, **fields)

    def sent(
        self, op: str, descriptors: tuple[int, ...] = (), **fields: object
    ) -> asyncio.Future[tuple[dict[str, Any], list[int]]]:
        """Sends a question; the future is its answer."""
        self.last += 1
        answer: asyncio.Future[Answer] = self.loop.create_future()
        data = json.dumps({"op": op, "id": self.last, **fields}).encode()
        if self.closed:
            answer.set_exception(SandboxFault(f"box {self.name}: it has ended; open another"))
        elif len(data) > PACKET:
            answer.set_exception(SandboxFault(f"box {self.name}: {op} takes {len(data)} bytes; there is room for {PACKET}"))
        else:
            self.waiting[self.last] = answer
            try:
                socket.send_fds(self.ours, [data], descriptors)
            except OSError as error:
                self.waiting.pop(self.last)
                answer.set_exception(SandboxFault(f"box {self.name}: {op} could not be sent: {error}"))
        return answer

    def close(self) -> None:
        """Lets go; what is still unanswered fails."""
        if self.closed:
            return
        self.closed = True
        self.loop.remove_reader(self.ours)
        self.ours.close()
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(SandboxFault(f"box {self.name}: it ended before it answered"))
                answer.exception()  # somebody may have stopped waiting
        self.waiting.clear()

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self.ours, PACKET, 4)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", list[int]()
        if not data:
            self.close()
            return
        told = cast("dict[str, Any]", json.loads(data))
        number = cast("int", told.get("ok", told.get("exit", told.get("failed"))))
        answer = self.waiting.pop(number, None)
        if answer is None or answer.done():
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        elif "failed" in told:
            answer.set_exception(Refused(f"box {self.name}: {told['text']}", told.get("errno")))
        else:
            answer.set_result((told, descriptors))
