"""The processes of a learner group on this machine: started, asked, and never left behind.

The rule this module keeps: nobody waits for a process that cannot answer any more. The first death or error ends the group and
is told with the rank's number and what it last wrote; and when the run itself dies, the pipes to its processes close.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from datetime import timedelta
from typing import IO, Protocol, cast

import msgspec
from torch import distributed as dist

from phronesis.errors import PhronesisError, RankFailed
from phronesis.train.group import wire
from phronesis.train.group.config import LearnerGroupConfig

log = logging.getLogger(__name__)

SETTLING = 2.0
"""Seconds in which the others may still say what went wrong with them, before one is blamed."""
GRACE = 5.0
"""Seconds a process may take to end by itself."""
TAIL = 15
"""Lines of a process's errors that are told."""


class Ranks(Protocol):
    """Those who hold the learner, however they are reached. See `phronesis.train.group.rank.Rank` for what they are asked."""

    shares_memory: bool
    """Whether they can open a file of this process."""

    def ask(self, name: str, body: bytes = b"") -> list[bytes]:
        """Asks all of them the same thing; their answers in order.

        Args:
            name: ``begin``, ``update``, ``weights``, ``state`` or ``restore``.
            body: the argument.

        Raises:
            RankFailed: one died, broke or took too long; all are ended.
            PhronesisError: one raised it; all are ended.
        """
        ...

    def close(self) -> None:
        """Ends them, also in the middle of something. May be called twice, and from another thread."""
        ...


class _Gone(Exception):
    """A process ended."""


class _Broke(Exception):
    """A process answered with an error that is none of ours."""


class _Process:
    """One process and the pipes to it."""

    def __init__(self, rank: int, threads: int):
        self.rank = rank
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "phronesis.train.group.rank"],  # -P: whatever lies in the working folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
            start_new_session=True,  # ctrl-C is for the run; the pipe ends the process when that is gone
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, name: str, body: bytes) -> bytes:
        """One question, one answer.

        Raises:
            _Gone, _Broke, PhronesisError: none, an error of others, an error of ours.
        """
        sink, source = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        try:
            wire.write_frame(sink, name, body)
            frame = wire.read_frame(source)
        except (OSError, ValueError) as error:
            raise _Gone from error
        if frame is None:
            raise _Gone
        kind, answer = frame
        if kind == wire.OK:
            return answer
        fault = msgspec.msgpack.decode(answer, type=wire.Fault)
        if fault.kind in wire.KNOWN:
            raise wire.KNOWN[fault.kind](fault.message)
        raise _Broke(fault.message)

    def kill(self) -> None:
        """Ends it now."""
        self._process.kill()

    def finish(self) -> None:
        """Waits for its end, after `kill` or not, and closes what belongs to it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # a frame that nobody reads any more
                    log.debug("rank %d ended with a frame unread", self.rank)
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def ending(self) -> str:
        """How it ended, and its last lines."""
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            code = None
        how = "closed its pipe" if code is None else f"died ({_signal(-code)})" if code < 0 else f"ended with code {code}"
        return f"{how}; {self.tail()}"

    def tail(self) -> str:
        """Its last lines."""
        try:
            self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, self._errors.tell() - 8192))
            lines = self._errors.read().decode(errors="replace").splitlines()[-TAIL:]
        except ValueError:  # another thread closed the group meanwhile
            lines = []
        return "it wrote nothing to its errors" if not lines else "its last lines:\n" + "\n".join(f"  {line}" for line in lines)


class Processes:
    """The group on this machine; implements `Ranks`."""

    shares_memory = True

    def __init__(self, config: LearnerGroupConfig):
        """Starts them and lets them meet.

        Raises:
            RankFailed: one did not come up.
        """
        self.config = config
        self._store, address = _store(config)
        self._lock = threading.Lock()
        self._closed = False
        self._pool = ThreadPoolExecutor(config.ranks, thread_name_prefix="learner rank")
        self._processes: list[_Process] = []
        try:
            for rank in range(config.ranks):
                self._processes.append(_Process(rank, config.threads_each))
        except OSError as error:
            self.close()
            raise RankFailed(f"rank {len(self._processes)} of the learner group cannot be started: {error}") from error
        log.info("learner group of %d processes (%s) meets at %s", config.ranks, config.method, address)
        self._ask("setup", [
            msgspec.msgpack.encode(wire.Joining(
                rank=rank, world=config.ranks, address=address, backend=config.backend, threads=config.threads_each,
                timeout=config.timeout,
            ))
            for rank in range(config.ranks)
        ])  # fmt: skip

    @property
    def pids(self) -> list[int]:
        """Process ids, by rank."""
        return [process.pid for process in self._processes]

    def ask(self, name: str, body: bytes = b"") -> list[bytes]:
        """See `Ranks.ask`."""
        return self._ask(name, [body] * len(self._processes))

    def close(self) -> None:
        """See `Ranks.close`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for process in self._processes:
                process.kill()
            self._pool.shutdown(wait=True)
            for process in self._processes:
                process.finish()

    def _ask(self, name: str, bodies: Sequence[bytes]) -> list[bytes]:
        try:
            answers = [self._pool.submit(p.ask, name, body) for p, body in zip(self._processes, bodies, strict=True)]
        except RuntimeError as error:  # the pool was shut down
            raise RankFailed("the learner group is closed; continue from the newest checkpoint with --resume") from error
        _, late = wait(answers, self.config.timeout, FIRST_EXCEPTION)
        if not late and all(a.exception() is None for a in answers):
            return [a.result() for a in answers]
        try:
            raise self._blamed(name, answers)
        finally:
            self.close()

    def _blamed(self, name: str, answers: Sequence[Future[bytes]]) -> PhronesisError:
        """What to raise: an error of ours before a death, a death before what others suffered from it."""
        timed_out = not any(a.done() and a.exception() is not None for a in answers)
        wait(answers, 0 if timed_out else SETTLING)
        errors = {p: a.exception() for p, a in zip(self._processes, answers, strict=True) if a.done() and a.exception()}
        advice = "No weight of the run was changed; continue from its newest checkpoint with --resume"
        for error in errors.values():
            if isinstance(error, PhronesisError):
                return error
        for kind in (_Gone, _Broke):
            for process, error in errors.items():
                if isinstance(error, kind):
                    what = process.ending() if kind is _Gone else f"broke: {error}; {process.tail()}"
                    return RankFailed(f"rank {process.rank} of the learner group, asked for {name!r}, {what}\n{advice}")
        late = [p.rank for p, a in zip(self._processes, answers, strict=True) if not a.done()]
        return RankFailed(
            f"ranks {late} of the learner group did not answer {name!r} within {self.config.timeout:g} s. {advice}, or raise "
            "learners.timeout"
        )


def store(host: str, port: int, timeout: float) -> tuple[object, str]:
    """A store for a group to meet at, which lives as long as the first result, and its address.

    Args:
        host: address to listen on, and on no other.
        port: 0 takes a free one.
        timeout: seconds.
    """
    with socket.create_server((host, port)) as listening:
        found = int(listening.getsockname()[1])
        held = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host, found, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout),
            master_listen_fd=os.dup(listening.fileno()),
        )  # fmt: skip
    return held, f"{host}:{found}"


def _store(config: LearnerGroupConfig) -> tuple[object, str]:
    return store(config.host, config.port, config.timeout)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
