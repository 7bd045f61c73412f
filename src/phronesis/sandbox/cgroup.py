"""The kernel's bound on the memory and the processes of a whole box, where this user may set one; else a watcher does it."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from phronesis.sandbox.sweep import below

ROOT = Path("/sys/fs/cgroup")
_numbers = itertools.count()


class Cgroup:
    """A control group of one box, in version 1 (two folders) or 2 (one)."""

    def __init__(self, folders: list[Path]):
        self.folders = folders

    def add(self, pid: int) -> None:
        """Puts a process, and all it will start, under the bounds."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def exceeded(self) -> bool:
        """Whether the kernel killed something for lack of memory."""
        for folder in self.folders:
            for name, field in (("memory.events", "oom_kill"), ("memory.oom_control", "oom_kill")):
                with contextlib.suppress(OSError):
                    fields = dict(line.split() for line in (folder / name).read_text(encoding="ascii").splitlines())
                    if int(fields.get(field, "0")) > 0:
                        return True
        return False

    def remove(self) -> None:
        """Takes the group away once it is empty."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def make(memory: int, processes: int, root: Path = ROOT) -> Cgroup | None:
    """A group with these bounds; None where this user may not make one."""
    name = f"phronesis-{os.getpid()}-{next(_numbers)}"
    if (root / "cgroup.controllers").exists():
        plan = [(root / name, {"memory.max": memory, "pids.max": processes}, {"memory.swap.max": 0})]
    else:
        both = {"memory.limit_in_bytes": memory}, {"memory.memsw.limit_in_bytes": memory}
        plan = [(root / "memory" / name, *both), (root / "pids" / name, {"pids.max": processes}, dict[str, int]())]
    group = Cgroup([])
    try:
        for folder, bounds, wishes in plan:
            folder.mkdir()
            group.folders.append(folder)
            for file, value in bounds.items():
                (folder / file).write_text(str(value), encoding="ascii")
            for file, value in wishes.items():
                with contextlib.suppress(OSError):
                    (folder / file).write_text(str(value), encoding="ascii")
    except OSError:
        group.remove()
        return None
    return group


def resident(pid: int) -> int:
    """Resident bytes of a process and of all below it; what several share counts once where the kernel tells."""
    return sum(_share(one) for one in [pid, *below(pid)])


def _share(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    with contextlib.suppress(OSError, ValueError, IndexError):
        resident, shared = (int(n) for n in Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1:3])
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    return 0
