"""What a command writes, read as it comes: kept up to a bound, the rest counted and thrown away."""

from __future__ import annotations

import asyncio
import os

from phronesis.sandbox.spec import Output

CHUNK = 1 << 16


class Capture:
    """Reads a pipe until its end."""

    def __init__(self, descriptor: int, most: int):
        """Starts reading.

        Args:
            descriptor: the reading end; closed at the end.
            most: bytes kept; of more, the first half and the last half.
        """
        self.descriptor, self.most = descriptor, most
        self.head, self.tail, self.total = bytearray(), bytearray(), 0
        self.ended = asyncio.Event()
        os.set_blocking(descriptor, False)
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(descriptor, self._read)

    def close(self) -> None:
        """Stops reading."""
        if not self.ended.is_set():
            self.loop.remove_reader(self.descriptor)
            os.close(self.descriptor)
            self.ended.set()

    def output(self) -> Output:
        """What came so far."""
        missing = self.total - len(self.head) - len(self.tail)
        if missing <= 0:
            return Output(data=bytes(self.head + self.tail), total=self.total)
        note = f"\n[{missing} bytes left out]\n".encode()
        return Output(data=bytes(self.head) + note + bytes(self.tail), total=self.total, truncated=True)

    def _read(self) -> None:
        try:
            data = os.read(self.descriptor, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.total += len(data)
        room = self.most - self.most // 2 - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        self.tail += data
        if len(self.tail) > self.most // 2:
            del self.tail[: len(self.tail) - self.most // 2]
