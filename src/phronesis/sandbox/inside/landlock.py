"""Rules of the kernel's Landlock: which folders may be read, which written, no network, no signals to outside."""

from __future__ import annotations

import ctypes
import os
import struct

from phronesis.sandbox.inside import kernel

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_FIRST = (1 << 13) - 1
"""What version 1 of Landlock knows about files."""
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_READ = EXECUTE | READ_FILE | READ_DIR
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


SCOPES_SIGNALS = 6
"""First version that keeps signals inside the fence."""


def version() -> int:
    """Version of Landlock in this kernel; 0 when there is none."""
    try:
        return kernel.syscall("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    except OSError:
        return 0


class Fence:
    """Rules that are ready to be entered."""

    def __init__(self, ruleset: int):
        self.ruleset = ruleset

    def enter(self) -> None:
        """Puts this process and all it starts behind the fence."""
        kernel.syscall("landlock_restrict_self", ctypes.c_int(self.ruleset), ctypes.c_uint32(0))
        os.close(self.ruleset)


def fence(binds: list[list[str]], work: str) -> Fence:
    """A fence around everything but the given folders and the work folder.

    Args:
        binds: pairs of which the first may be read and executed.
        work: the folder that may be written.

    Raises:
        OSError: this kernel has no Landlock.
    """
    known = version()
    if known == 0:
        raise OSError(38, "this kernel has no Landlock")
    files = _FIRST | (_REFER if known >= 2 else 0) | (_TRUNCATE if known >= 3 else 0) | (_IOCTL if known >= 5 else 0)
    network = 3 if known >= 4 else 0
    scope = 3 if known >= SCOPES_SIGNALS else 0
    attributes = struct.pack("QQQ", files, network, scope)
    size = 24 if known >= SCOPES_SIGNALS else 16 if known >= 4 else 8
    buffer = ctypes.create_string_buffer(attributes, 24)
    ruleset = kernel.syscall("landlock_create_ruleset", buffer, ctypes.c_size_t(size), ctypes.c_uint32(0))
    for source, _ in binds:
        _allow(ruleset, source, _READ)
    for device in _DEVICES:
        _allow(ruleset, device, READ_FILE | WRITE_FILE)
    _allow(ruleset, work, files & ~(_IOCTL | _MAKE_CHAR | _MAKE_BLOCK))
    return Fence(ruleset)


def keep_signals_inside() -> None:
    """From now on this process and all it starts can signal only one another. Needs version 6."""
    buffer = ctypes.create_string_buffer(struct.pack("QQQ", 0, 0, 2), 24)
    Fence(kernel.syscall("landlock_create_ruleset", buffer, ctypes.c_size_t(24), ctypes.c_uint32(0))).enter()


def _allow(ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        allowed = rights if os.path.isdir(path) else rights & _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, place), 12)
        kernel.syscall("landlock_add_rule", ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
    finally:
        os.close(place)
