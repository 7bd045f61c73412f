"""System calls that Python has no function for. Linux only; every failure is an OSError that names the call."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from typing import Any

_libc: Any = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
ALL_NAMESPACES = 0x7E020000
"""Flags of every namespace that clone can make."""

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_CAPBSET_DROP = 24
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 4, 38, 36

_SAME = {"landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446, "openat2": 437}
_NUMBERS = {
    "x86_64": {"pivot_root": 155, "capset": 126, **_SAME},
    "aarch64": {"pivot_root": 41, "capset": 91, **_SAME},
}


def machine() -> str:
    """Name of the processor's instruction set as the kernel calls it."""
    return platform.machine()


def syscall(name: str, *arguments: object) -> int:
    """A raw system call.

    Raises:
        OSError: it failed, or this processor's number of it is not known.
    """
    numbers = _NUMBERS.get(machine())
    if numbers is None:
        raise OSError(38, f"system call {name!r} has no known number on {machine()!r}")
    ctypes.set_errno(0)
    return _checked(_libc.syscall(ctypes.c_long(numbers[name]), *arguments), name)


def unshare(flags: int) -> None:
    """Leaves namespaces of the parent for new ones."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """Mounts, binds or remounts."""
    words = [None if w is None else os.fsencode(w) for w in (source, target, kind, data)]
    result = _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])
    _checked(result, f"mount {source!r} on {target!r}")


def detach(target: str) -> None:
    """Takes a mount and all below it out of sight."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target!r}")


def pivot_to(folder: str) -> None:
    """Makes a mounted folder the root and lets go of the old one."""
    os.chdir(folder)
    syscall("pivot_root", b".", b".")
    detach(".")
    os.chdir("/")


def prctl(option: int, value: int) -> None:
    """A setting of this process."""
    zero = ctypes.c_ulong(0)
    _checked(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def bound_capabilities() -> None:
    """Gives up the right to regain any capability by starting a program. For this one must still have them."""
    with contextlib.suppress(OSError):
        for capability in range(64):  # the kernel knows fewer, and refuses the first that it does not know
            prctl(PR_CAPBSET_DROP, capability)


def drop_capabilities() -> None:
    """Gives up every capability, for good once privileges can no longer grow."""
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    syscall("capset", header, ctypes.create_string_buffer(b"\0" * 24))


def become(uid: int) -> None:
    """Takes an unprivileged user and group of that number, and no other group."""
    bound_capabilities()
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def open_beneath(folder: int, path: str, flags: int, mode: int = 0) -> int:
    """Opens a path below a folder without following a link or leaving its file system.

    Args:
        folder: descriptor of the folder.
        path: relative.
        flags: as for os.open.
        mode: of a file that is made.
    """
    no_xdev, no_magic, no_links, beneath = 1, 2, 4, 8
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, no_xdev | no_magic | no_links | beneath)
    text = os.fsencode(path)
    return syscall("openat2", ctypes.c_int(folder), text, ctypes.create_string_buffer(how, 24), ctypes.c_size_t(24))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
