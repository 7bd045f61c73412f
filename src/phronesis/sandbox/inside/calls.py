"""The system calls that are refused, as a filter program of the kernel (seccomp).

The table is the project's own choice: what makes or changes namespaces and mounts, looks into other processes, loads code
into the kernel, sets clocks or names, or opens a socket that is not local.
"""

from __future__ import annotations

import ctypes
import struct

from phronesis.sandbox.inside import kernel

REFUSED: dict[str, tuple[int, int]] = {
    # name: number on x86_64, on aarch64; -1 where it does not exist
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "open_tree_attr": (467, 467),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "sethostname": (170, 161), "setdomainname": (171, 162),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "settimeofday": (164, 170),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "mknod": (133, -1), "mknodat": (259, 33),
    "personality": (135, 92), "syslog": (103, 116), "fanotify_init": (300, 262),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "iopl": (172, -1), "ioperm": (173, -1),
    "modify_ldt": (154, -1), "vhangup": (153, 58), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "uselib": (134, -1),
    # memory that belongs to no process, so that a watcher does not see it
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "mbind": (237, 235), "set_mempolicy": (238, 237),
}  # fmt: skip
_KILLS = ((62, 129), (200, 130), (234, 131), (129, 138), (424, 424))
"""kill, tkill, tgkill, rt_sigqueueinfo, pidfd_send_signal."""
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR, _IOCTL = (56, 220), (435, 435), (41, 198), (53, 199), (16, 29)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


def program(*, loopback: bool = False, signals: bool = True, machine: str | None = None) -> bytes:
    """The filter, eight bytes an instruction.

    Args:
        loopback: also allow internet sockets; only sensible in a network namespace of one's own.
        signals: allow sending signals; forbidden where other processes can be seen.
        machine: the processor; None means this one.

    Raises:
        OSError: numbers of this processor are not known.
    """
    try:
        column, architecture = _ARCHITECTURES[machine or kernel.machine()]
    except KeyError:
        raise OSError(_ENOSYS, f"no table of system calls for {machine or kernel.machine()!r}") from None
    families = (_AF_UNIX, _AF_INET, _AF_INET6) if loopback else (_AF_UNIX,)
    refuse = _op(_RETURN, _ERROR | _EPERM)
    code = [_op(_LOAD, _ARCHITECTURE), _op(_EQUAL, architecture, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NUMBER)]
    if column == 0:
        code += [_op(_AT_LEAST, _X32, 0, 1), _op(_RETURN, _KILL)]
    code += [
        _op(_EQUAL, _CLONE3[column], 0, 1),
        _op(_RETURN, _ERROR | _ENOSYS),
    ]  # libc then uses clone, whose flags can be read
    code += [
        _op(_EQUAL, _CLONE[column], 0, 4),
        _op(_LOAD, _FIRST),
        _op(_ANY_BIT, kernel.ALL_NAMESPACES, 0, 1),
        refuse,
        _op(_RETURN, _ALLOW),
    ]
    for number in (_SOCKET[column], _SOCKETPAIR[column]):
        checks = [_op(_EQUAL, family, len(families) - i, 0) for i, family in enumerate(families)]
        code += [_op(_EQUAL, number, 0, len(checks) + 3), _op(_LOAD, _FIRST), *checks, refuse, _op(_RETURN, _ALLOW)]
    code += [_op(_EQUAL, _IOCTL[column], 0, 5), _op(_LOAD, _SECOND), _op(_EQUAL, _TIOCSTI, 1, 0), _op(_EQUAL, _TIOCLINUX, 0, 1)]
    code += [refuse, _op(_RETURN, _ALLOW)]
    numbers = [pair[column] for pair in REFUSED.values()] + ([] if signals else [pair[column] for pair in _KILLS])
    for number in numbers:
        if number >= 0:
            code += [_op(_EQUAL, number, 0, 1), refuse]
    return b"".join([*code, _op(_RETURN, _ALLOW)])


def install(code: bytes) -> None:
    """Puts this process and all it starts under the filter. Privileges must already be unable to grow."""
    buffer = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    pointer = ctypes.create_string_buffer(described, len(described))
    set_seccomp, filter_mode = 22, 2
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(set_seccomp, ctypes.c_ulong(filter_mode), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), "the kernel refuses the filter of system calls (seccomp)")


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)
