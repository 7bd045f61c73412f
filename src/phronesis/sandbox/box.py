"""A box: one isolated machine with a work folder, in which commands run. It lives until it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple

import msgspec

from phronesis.errors import SandboxFault
from phronesis.sandbox import cgroup
from phronesis.sandbox.capture import Capture
from phronesis.sandbox.channel import Answer, Channel, Refused
from phronesis.sandbox.spec import BoxSpec, Limits, Output, Ran, Tier
from phronesis.sandbox.sweep import processes_of, sweep

GRACE = 2.0
"""Seconds that the first process has to kill a command before it is itself killed."""
WATCH = 0.05
"""Seconds between two looks at the memory of a box that no control group bounds."""


class Entry(NamedTuple):
    """Something in the work folder."""

    path: str
    size: int
    kind: str
    """file, folder, link or other."""
    mode: int
    """Permissions, as for chmod."""

    @property
    def executable(self) -> bool:
        """Whether anybody may run it."""
        return bool(self.mode & 0o111)


class Child:
    """A command that is talked to."""

    def __init__(
        self,
        output: asyncio.StreamReader,
        reading: asyncio.BaseTransport,
        given: asyncio.StreamWriter,
        answer: asyncio.Future[Answer],
    ):
        self.output, self.reading, self.given, self.answer = output, reading, given, answer
        self.number = 0
        """Of the question that started it."""

    @classmethod
    async def attached(cls, read: int, write: int, answer: asyncio.Future[Answer]) -> Child:
        """Over the two ends of its pipes."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 22)
        out, given = open(read, "rb", 0), open(write, "wb", 0)  # noqa: SIM115 - the transports close them
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), out)
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, given)
        return cls(reader, reading, asyncio.StreamWriter(transport, protocol, None, loop), answer)

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self.answer.done()

    def close(self) -> None:
        """Lets go of its pipes."""
        self.given.close()
        self.reading.close()


class Box:
    """An isolated machine. Made by `Sandbox.open`; use it with ``async with``."""

    def __init__(
        self,
        spec: BoxSpec,
        tier: Tier,
        ours: socket.socket,
        first: int,
        *,
        environment: Mapping[str, str],
        python: str,
        work: str = "/work",
        sweeps: bool = False,
        on_close: Callable[[], None] = lambda: None,
    ):
        """Takes over a started box.

        Args:
            spec: what it was made of.
            tier: how it is isolated.
            ours: the host's end of the socket to its first process.
            first: that process, as the host numbers it.
            environment: of commands.
            python: the interpreter inside; its first argument, if it is a fork of one that has started.
            work: the work folder, as commands see it.
            sweeps: whether its processes have to be found and killed from outside.
            on_close: called once, when everything in it is dead.
        """
        self.spec, self.first, self.python, self.work = spec, first, python, work
        self.tier: Tier = tier
        self.environment, self.sweeps = environment, sweeps
        self.on_close = on_close
        self.active = 0
        """Commands that run, and children that are talked to."""
        self.children: list[Child] = []
        self.channel = Channel(ours, f"{tier}:{first}")
        self.handle = os.pidfd_open(first)
        self.group = cgroup.make(spec.memory, spec.processes)
        if self.group is not None:
            try:
                self.group.add(first)
            except OSError:
                self.group.remove()
                self.group = None

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str | None = None,
        environment: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        linger: bool = False,
    ) -> Ran:
        """Runs a command to its end, or to its limit.

        Args:
            argv: program and arguments; a name is looked up in PATH.
            stdin: what it can read.
            cwd: where; None means the work folder.
            environment: variables beside those of the box.
            limits: None means those of the box.
            linger: leave processes alone that it started and did not wait for. Without it they are killed; if other commands
                run at the same time, those of its process group at once and the rest when the box is next idle.

        Raises:
            SandboxFault: the box broke. What the command does wrong is told in the result.
        """
        limits = limits or self.spec.limits
        began = time.monotonic()
        given = _in_memory("stdin", stdin)
        outs, ins = zip(os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC), strict=True)
        captures = [Capture(out, limits.output) for out in outs]
        answer = self.channel.sent("run", (given, *ins), **self._command(argv, cwd, environment, limits))
        number, self.active = self.channel.last, self.active + 1
        for descriptor in (given, *ins):
            os.close(descriptor)
        try:
            stopped = await self._watched(answer, limits.seconds)
            if stopped is not None or not linger:
                await self._ended(number)
            await self._drained(captures)
        except BaseException:
            await asyncio.shield(self._ended(number))
            raise
        finally:
            self.active -= 1
            for capture in captures:
                capture.close()
        stdout, stderr = (capture.output() for capture in captures)
        return self._ran(answer, stopped, stdout=stdout, stderr=stderr, seconds=time.monotonic() - began)

    async def run_python(self, code: str, *, stdin: bytes = b"", limits: Limits | None = None) -> Ran:
        """Runs a Python program to its end, see `run`. Only the standard library can be imported."""
        return await self.run([self.python, "-c", code], stdin=stdin, limits=limits)

    async def start(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        environment: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> Child:
        """Starts a command that is talked to while it runs. Its errors go where its output goes.

        Args:
            argv: program and arguments.
            cwd: where; None means the work folder.
            environment: variables beside those of the box.
            limits: None means those of the box; the wall clock is the caller's affair.

        Raises:
            SandboxFault: the box broke.
        """
        (given, write), (read, out) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        answer = self.channel.sent(
            "run", (given, out, out), **self._command(argv, cwd, environment, limits or self.spec.limits)
        )
        for descriptor in (given, out):
            os.close(descriptor)
        number, self.active = self.channel.last, self.active + 1
        answer.add_done_callback(self._child_ended)
        child = await Child.attached(read, write, answer)
        child.number = number
        self.children.append(child)
        return child

    async def write(self, path: str, data: bytes, *, executable: bool = False) -> None:
        """Makes or replaces a file of the work folder, and the folders above it.

        Raises:
            SandboxFault: the path leaves the work folder or follows a link, or there is no room.
        """
        given = _in_memory("file", data)
        try:
            await self.channel.ask("write", (given,), path=self._inside(path), mode=0o755 if executable else 0o644)
        finally:
            os.close(given)

    async def read(self, path: str, most: int = 16 << 20) -> bytes:
        """The first bytes of a regular file of the work folder; never through a link.

        Raises:
            SandboxFault: there is no such file.
        """
        _, descriptors = await self.channel.ask("read", path=self._inside(path))
        with open(descriptors[0], "rb") as file:
            return file.read(most)

    async def entries(self, path: str = ".", most: int = 1000, *, whole: bool = False) -> list[Entry]:
        """What the work folder holds below a path, at most so many, and no more than 64 KiB of names.

        Args:
            path: of a folder.
            most: entries.
            whole: refuse instead of leaving any out.

        Raises:
            SandboxFault: there is no such folder, or it holds more.
        """
        told, _ = await self.channel.ask("list", path=self._inside(path), most=most)
        if whole and not told["whole"]:
            raise Refused(f"{path!r} holds more than can be listed at once", errno.E2BIG)
        return [Entry(name, size, _kind(mode), stat.S_IMODE(mode)) for name, mode, size in told["entries"]]

    async def end(self, child: Child) -> None:
        """Kills a command that is talked to."""
        await self._ended(child.number)

    async def clear(self) -> None:
        """Kills everything that commands left running."""
        await self._cleared()

    async def close(self) -> None:
        """Ends the box and everything in it."""
        self.channel.close()
        for child in self.children:
            child.close()
        self.children.clear()
        if self.handle < 0:
            return
        handle, self.handle = self.handle, -1
        if self.sweeps:
            await sweep(self.first)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        await _gone(handle)
        os.close(handle)
        if self.group is not None:
            self.group.remove()
        self.on_close()

    async def __aenter__(self) -> Box:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _command(
        self, argv: Sequence[str], cwd: str | None, environment: Mapping[str, str] | None, limits: Limits
    ) -> dict[str, Any]:
        bounds = msgspec.structs.asdict(limits)
        if self.sweeps and os.geteuid() != 0 and limits.processes is not None:
            bounds["processes"] = limits.processes + processes_of(os.getuid())  # the kernel counts the user's others too
        return {
            "argv": list(argv),
            "cwd": self.work if cwd is None else os.path.join(self.work, cwd),
            "env": {**self.environment, **(environment or {})},
            "limits": {k: v for k, v in bounds.items() if k not in ("seconds", "output") and v is not None},
        }

    def _ran(
        self,
        answer: asyncio.Future[Answer],
        stopped: Literal["time", "memory"] | None,
        *,
        stdout: Output,
        stderr: Output,
        seconds: float,
    ) -> Ran:
        """What came of a command; where nothing was said of its end, the box died."""
        told = answer.result()[0] if answer.done() and answer.exception() is None else dict[str, Any]()
        why: Literal["time", "memory", "died"] | None = stopped
        if why is None and not told:
            why = "died"
        elif why is None and told["code"] == -signal.SIGKILL and self.group is not None and self.group.exceeded():
            why = "memory"
        return Ran(
            code=told.get("code"),
            stdout=stdout,
            stderr=stderr,
            seconds=seconds,
            cpu=told.get("cpu", 0.0),
            memory=told.get("memory", 0),
            stopped=why,
            isolation=self.tier,
        )

    async def _watched(self, answer: asyncio.Future[Answer], seconds: float) -> Literal["time", "memory"] | None:
        """Waits for the end of a command; says why it was ended if it was."""
        deadline = time.monotonic() + seconds
        while not answer.done():
            left = deadline - time.monotonic()
            if left <= 0:
                return "time"
            await asyncio.wait([answer], timeout=left if self.group is not None else min(left, WATCH))
            if self.group is None and not answer.done() and cgroup.resident(self.first) > self.spec.memory:
                return "memory"
        return None

    async def _ended(self, number: int) -> None:
        """Kills what a command left: everything, if nothing else runs."""
        if self.channel.closed:
            return
        with contextlib.suppress(SandboxFault):  # it ended meanwhile, and everything with it
            if self.active <= 1:
                await self._cleared()
            else:
                await self.channel.ask("end", group=number)

    def _child_ended(self, answer: asyncio.Future[Answer]) -> None:
        self.active -= 1

    async def _cleared(self) -> None:
        try:
            answer = self.channel.sent("kill")
            if self.sweeps:
                await sweep(self.first)
            await asyncio.wait_for(answer, GRACE)
        except TimeoutError:
            await self.close()

    async def _drained(self, captures: Sequence[Capture]) -> None:
        """Waits for what is still in the pipes; a process that was left alone may keep them open."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(c.ended.wait() for c in captures)), 0.2)

    def _inside(self, path: str) -> str:
        """Relative to the work folder; what no file system takes is refused before it is asked for."""
        if "\0" in path or len(path) > 4096:
            raise Refused("no such file: a path has no null bytes and at most 4096 characters", errno.ENAMETOOLONG)
        return os.path.relpath(path, self.work) if path.startswith("/") else path


def _in_memory(name: str, data: bytes) -> int:
    """A file in memory with this content, read from its beginning; a descriptor."""
    made = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(made, view) :]
    os.lseek(made, 0, os.SEEK_SET)
    return made


def _kind(mode: int) -> str:
    return "folder" if stat.S_ISDIR(mode) else "link" if stat.S_ISLNK(mode) else "file" if stat.S_ISREG(mode) else "other"


async def _gone(handle: int) -> None:
    """Waits until a process has ended."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), GRACE)
    except TimeoutError:
        raise SandboxFault("the first process of a box does not die; is the machine out of memory?") from None
    finally:
        loop.remove_reader(handle)
