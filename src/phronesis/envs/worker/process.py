"""One worker process: started when first needed, asked one thing at a time, killed when it hangs or grows, never trusted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple, cast

from phronesis.envs.worker.spec import WorkerSpec
from phronesis.errors import ConfigError, EnvFault, SandboxFault
from phronesis.sandbox import Box, BoxSpec, Child, Limits, Sandbox
from phronesis.sandbox.cgroup import resident

MAIN = Path(__file__).parent / "guest" / "main.py"
WATCH = 0.2
"""Seconds between two looks at its memory."""
LINE = 1 << 25
"""Bytes of one answer."""


class Pipes(NamedTuple):
    """A started process, as far as it is talked to."""

    output: asyncio.StreamReader
    given: asyncio.StreamWriter
    pid: int


class Shell(ABC):
    """Where a worker process runs."""

    @abstractmethod
    async def start(self, spec: WorkerSpec) -> Pipes:
        """Starts it."""

    @abstractmethod
    async def end(self) -> str:
        """Ends it and everything that it started; says what it complained of."""

    def place(self, path: str) -> str:
        """Where the worker finds a path of the host."""
        return path


class PlainShell(Shell):
    """A process of this user, in a session of its own, with a small environment and an empty home folder."""

    def __init__(self) -> None:
        self.home = tempfile.mkdtemp(prefix="phronesis-worker-")
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, spec: WorkerSpec) -> Pipes:
        """Starts it. Its errors go to a file."""
        with open(os.path.join(self.home, "errors"), "wb") as errors:
            self.process = await asyncio.create_subprocess_exec(
                spec.python, "-P", "-s", str(MAIN), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=errors, env=environment(self.home), cwd=self.home, start_new_session=True, limit=LINE,
            )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        return Pipes(self.process.stdout, self.process.stdin, self.process.pid)

    async def end(self) -> str:
        """Kills its session; the end of what it wrote to standard error."""
        said = ""
        if self.process is not None:
            if self.process.stdin is not None:
                self.process.stdin.close()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()
            kill_all(f"HOME={self.home}")
            said = Path(self.home, "errors").read_bytes()[-600:].decode("utf-8", "replace").strip()
        shutil.rmtree(self.home, ignore_errors=True)
        return said


def kill_all(variable: str) -> None:
    """Kills this user's processes that inherited a variable, given as ``NAME=value``: also those that left their session."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


class BoxShell(Shell):
    """A process in a box.

    The folders it reads are shown under the names of links to them: a box has a work folder and a folder for temporary files
    of its own, which would hide an environment that happens to lie in folders of the same names.
    """

    def __init__(self, sandbox: Sandbox):
        self.sandbox = sandbox
        self.links = tempfile.mkdtemp(prefix="phronesis-worker-", dir="/var/tmp")
        os.chmod(self.links, 0o755)
        self.box: Box | None = None
        self.child: Child | None = None
        self.shown: dict[str, str] = {}
        """Folders of the host, and the links to them."""

    async def start(self, spec: WorkerSpec) -> Pipes:
        """Opens the box and starts the worker in it."""
        for folder in (Path(spec.python).parent.parent, MAIN.parent, spec.guest.parent, *map(Path, spec.readable)):
            self._link(folder)
        base = os.path.dirname(os.path.dirname(os.path.realpath(spec.python)))
        box = BoxSpec(
            readable=(*self.shown.values(), base),
            memory=spec.memory,
            processes=64,
            limits=Limits(memory=None, open_files=1024, file_size=None),
            whole_proc=True,
        )
        self.box = await self.sandbox.open(box)
        variables = environment(self.box.work)
        arguments = [self.place(spec.python), "-P", "-s", self.place(str(MAIN)), "--quiet"]
        self.child = await self.box.start(arguments, environment=variables)
        return Pipes(self.child.output, self.child.given, self.box.first)

    def place(self, path: str) -> str:
        """Its place under a link, if it lies in a folder that is shown."""
        for folder, link in self.shown.items():
            if path == folder or path.startswith(folder + "/"):
                return link + path[len(folder) :]
        return path

    async def end(self) -> str:
        """Closes the box."""
        if self.box is not None:
            with contextlib.suppress(SandboxFault):
                await self.box.close()
        shutil.rmtree(self.links, ignore_errors=True)
        return ""

    def _link(self, folder: Path) -> None:
        link = os.path.join(self.links, str(len(self.shown)))
        if str(folder) not in self.shown:
            os.symlink(folder.resolve(), link)
            self.shown[str(folder)] = link


def environment(home: str) -> dict[str, str]:
    """All variables of a worker: nothing of the host's, nothing that fetches."""
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    quiet = {"MPLBACKEND": "Agg", "MPLCONFIGDIR": f"{home}/.tmp", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1",
        **offline, **quiet,
    }  # fmt: skip


class Process:
    """A worker process. Not restarted: one that has ended says why, and another is made."""

    def __init__(self, spec: WorkerSpec, shell: Shell):
        self.spec, self.shell = spec, shell
        self.pipes: Pipes | None = None
        self.turn = asyncio.Lock()
        self.ended = ""
        """Why it ended; empty while it lives."""
        self.about: dict[str, Any] = {}
        """What the catalogue says of itself."""

    async def start(self) -> None:
        """Starts it and opens the catalogue.

        Raises:
            ConfigError: the interpreter or the package is missing, or the catalogue refuses its arguments.
            EnvFault: it did not start.
        """
        spec = self.spec
        try:
            self.pipes = await self.shell.start(spec)
        except OSError as error:
            await self.kill("it could not be started")
            raise EnvFault(f"the worker of {spec.name!r} could not be started: {error}") from error
        place = self.shell.place
        args = {name: place(value) if isinstance(value, str) else value for name, value in spec.args.items()}
        try:
            self.about = await self._ask("hello", spec.start_seconds, {"catalogue": place(str(spec.guest)), "args": args})
        except BaseException:
            await self.kill("it could not be opened")
            raise

    async def ask(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Asks; what was answered. One at a time, others wait.

        Raises:
            EnvFault: it hung, grew, died, or the package raised.
            ConfigError: what was asked is wrong.
        """
        async with self.turn:
            return await self._ask(op, self.spec.seconds, fields)

    async def kill(self, why: str) -> str:
        """Ends it."""
        if not self.ended:
            self.ended = why
            return await self.shell.end()
        return ""

    async def _ask(self, op: str, seconds: float, fields: dict[str, Any]) -> dict[str, Any]:
        if self.ended or self.pipes is None:
            raise EnvFault(f"the worker of {self.spec.name!r} has ended: {self.ended}")
        number = secrets.token_hex(8)  # nobody who was started earlier can answer in its place
        request = json.dumps({"id": number, "op": op, **fields}, ensure_ascii=True).encode()
        reading: asyncio.Task[bytes] | None = None
        try:
            self.pipes.given.write(request + b"\n")
            await self.pipes.given.drain()
            reading = asyncio.create_task(self.pipes.output.readline())
            line = await self._watched(reading, op, seconds)
        except (OSError, ValueError) as error:
            raise await self._broken(f"{op} broke its pipe: {error}") from error
        except BaseException:
            if reading is not None:
                reading.cancel()
            await self.kill(f"{op} was given up")
            raise
        if not line.endswith(b"\n"):
            raise await self._broken(f"it died during {op}")
        return await self._read(line, op, number)

    async def _watched(self, reading: asyncio.Task[bytes], op: str, seconds: float) -> bytes:
        assert self.pipes is not None
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise await self._broken(f"{op} gave no answer within {seconds:g} s")
            await asyncio.wait([reading], timeout=min(left, WATCH))
            if reading.done():
                return reading.result()
            if (used := resident(self.pipes.pid)) > self.spec.memory:
                raise await self._broken(f"{op} took {used >> 20} MiB, allowed are {self.spec.memory >> 20}")

    async def _broken(self, why: str) -> EnvFault:
        said = await self.kill(why)
        return EnvFault(f"the worker of {self.spec.name!r} was ended: {why}{f'; it said: {said}' if said else ''}")

    async def _read(self, line: bytes, op: str, number: str) -> dict[str, Any]:
        try:
            told = cast("dict[str, Any]", json.loads(line))
            found, error = told["id"], told.get("error")
            ok = cast("object", None if error is not None else told["ok"])
            kind, text = ("", "") if error is None else (str(error["kind"]), str(error["text"])[:600])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
            raise await self._broken(f"its answer to {op} is not of the protocol: {line[:80]!r}") from problem
        if found != number:
            raise await self._broken(f"it answered something else than {op}: {str(found)[:80]!r}")
        if error is None and not isinstance(ok, dict):
            raise EnvFault(f"{self.spec.name!r}, {op}: answered with {str(ok)[:80]!r}, expected fields")
        if error is None:
            return cast("dict[str, Any]", ok)
        if kind == "missing":
            raise ConfigError(f"{self.spec.name!r}: {text} in {self.spec.python!r}; install it with: {self.spec.install}")
        if kind == "user":
            raise ConfigError(f"{self.spec.name!r}: {text}")
        raise EnvFault(f"{self.spec.name!r}, {op}: {text}")
