"""What is asked of a sandbox, what it promises, and what came of a command. Plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

Tier = Literal["namespaces", "bubblewrap", "landlock", "docker", "process"]
"""Kinds of isolation, the strongest first; see `Guarantees`."""

MIB = 1 << 20


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of one command. None means no bound of that kind."""

    seconds: float = 10.0
    """Wall clock; then everything in the box is killed."""
    cpu: int | None = None
    """CPU-seconds of one process."""
    memory: int | None = 512 * MIB
    """Bytes of address space of one process."""
    processes: int | None = 64
    """Processes of the box's user."""
    file_size: int | None = 64 * MIB
    """Bytes of one file."""
    open_files: int | None = 256
    """Descriptors of one process."""
    output: int = 64 * 1024
    """Bytes kept of each of stdout and stderr; of more, the beginning and the end."""


class BoxSpec(Struct, frozen=True, kw_only=True):
    """What a box is made of."""

    readable: Sequence[str] = ()
    """Host folders and files beside the system's own that commands may read, at the same place."""
    hidden: Sequence[str] = ()
    """Files and folders among those that are shown which commands find empty. Not every tier can do this; those that cannot
    refuse."""
    links: Mapping[str, str] = {}
    """Links to make outside of the work folder, by path: where they lead."""
    environment: Mapping[str, str] = {}
    """Variables of every command, beside PATH, HOME and LANG."""
    disk: int = 64 * MIB
    """Bytes of the work folder."""
    files: int = 4096
    """Entries of the work folder."""
    memory: int = 1024 * MIB
    """Bytes of memory of the whole box."""
    processes: int = 128
    """Processes of the whole box."""
    loopback: bool = False
    """Whether commands may talk to one another over 127.0.0.1. Nothing else is ever reachable."""
    whole_proc: bool = False
    """Show all of /proc instead of processes only; some programs read /proc/meminfo or /proc/cpuinfo."""
    limits: Limits = Limits()
    """Of commands that bring none."""


class Output(Struct, frozen=True, kw_only=True):
    """What a command wrote to one stream."""

    data: bytes = b""
    """The beginning and, if bytes are missing, the end, with a note between."""
    total: int = 0
    """Bytes written."""
    truncated: bool = False
    """Whether some are missing from `data`."""

    @property
    def text(self) -> str:
        """As UTF-8; other bytes are replaced."""
        return self.data.decode("utf-8", "replace")


class Ran(Struct, frozen=True, kw_only=True):
    """What came of a command."""

    code: int | None
    """Exit status; negative: the signal that ended it; None when nobody knows, because the box died."""
    stdout: Output
    stderr: Output
    seconds: float
    """Wall clock."""
    cpu: float = 0.0
    """CPU-seconds of it and of the children it waited for."""
    memory: int = 0
    """Largest resident bytes of one of these processes."""
    stopped: Literal["time", "memory", "died"] | None = None
    """Why it was ended from outside: out of time, the box out of memory, or the box itself died."""
    isolation: Tier
    """Where it ran."""

    @property
    def ok(self) -> bool:
        """Exit status 0."""
        return self.code == 0


class Guarantees(Struct, frozen=True, kw_only=True):
    """What a way of isolating promises, as found by trying. False means: not promised."""

    tier: Tier
    files: bool
    """Files outside of the readable ones cannot be read or written."""
    network: bool
    """No host or service can be reached."""
    processes: bool
    """Processes outside cannot be seen or signalled."""
    calls: bool
    """Dangerous system calls are refused."""
    user: bool
    """Commands run as an unprivileged user who is nobody else."""
    kill: bool
    """Nothing a command starts outlives the box."""
    disk: bool
    """Bytes and entries of the work folder are bounded in total."""
    memory: Literal["cgroup", "polled", "none"]
    """Who bounds the memory of the whole box: the kernel, a watcher every 50 ms, nobody."""
    note: str = ""
    """What to know."""
