"""From an ordinary process to the first process of a box, step by step. Which step failed is always known."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
from typing import Any

from phronesis.sandbox.inside import calls, init, kernel, landlock

NOBODY = 65534
"""Who an ordinary user is inside a box."""
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
_SEEN = kernel.MS_NOSUID | kernel.MS_NODEV


class Step:
    """Name of what is being done."""

    name = "start"

    def __call__(self, name: str) -> None:
        """Now it is this."""
        self.name = name


def enter(asked: dict[str, Any], channel: int, tell: int, step: Step) -> None:
    """Becomes a box of the kind that was asked for; returns when the box has ended.

    Args:
        asked: fields of a box, see `sandbox.namespaces`.
        channel: descriptor of the socket to the host.
        tell: descriptor for one line: the first process, or what went wrong.
        step: told what is being done.
    """
    if asked["kind"] == "landlock":
        step("fence off files")
        leave_root(asked["uid"])
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        os.chdir(asked["work"])
        scoped = landlock.version() >= landlock.SCOPES_SIGNALS
        shut(asked, step, landlock.fence(asked["binds"], asked["work"]), signals=scoped)
        _serve(channel, tell, asked["work"], os.getpid(), alone=False, scoped=scoped)
    elif asked["kind"] == "plain":
        step("start")
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        os.chdir(asked["work"])
        _serve(channel, tell, asked["work"], os.getpid(), alone=False)
    elif asked["kind"] == "inherited":  # another program has made the namespaces
        step("check the process namespace")
        if os.getpid() != 1:
            raise OSError(1, "this process is not the first of a process namespace")
        shut(asked, step)
        _serve(channel, tell, asked["work"], os.getpid(), alone=True)
    else:
        _in_namespaces(asked, channel, tell, step)


def _in_namespaces(asked: dict[str, Any], channel: int, tell: int, step: Step) -> None:
    separate(asked, step)
    step("start the first process")
    ready, go = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(ready)
        _first(asked, channel, tell, go, step)
    os.close(channel)
    os.close(go)
    if os.read(ready, 1):
        os.write(tell, json.dumps({"pid": first}).encode() + b"\n")
    os.close(tell)
    os.waitpid(first, 0)


def separate(asked: dict[str, Any], step: Step) -> None:
    """Makes namespaces and the root they will have; the next child is the first process of the new process namespace."""
    privileged = asked["kind"] == "root"
    if not privileged:
        step("drop to an unprivileged user")
        leave_root(asked["uid"])
    step("make namespaces")
    own = os.getuid(), os.getgid()
    kernel.unshare(kernel.ALL_NAMESPACES & ~kernel.CLONE_NEWUSER if privileged else kernel.ALL_NAMESPACES)
    if not privileged:
        step("map the user")
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{NOBODY} {own[0]} 1")
        _write("/proc/self/gid_map", f"{NOBODY} {own[1]} 1")
    step("build the root")
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    build(asked)


def settle(asked: dict[str, Any], step: Step) -> None:
    """The first process moves into the new root and gives up everything that could be used to get out."""
    step("mount /proc")
    mount_proc(asked["stage"] + "/proc", whole=asked["whole_proc"])
    step("change the root")
    kernel.pivot_to(asked["stage"])
    kernel.mount("none", "/", None, kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | _SEEN)
    os.chdir("/work")
    if asked["loopback"]:
        step("raise the loopback interface")
        _raise_loopback()
    step("drop to an unprivileged user")
    if asked["kind"] == "root":
        kernel.become(asked["uid"])
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # changing the user cleared it
    shut(asked, step)


def _first(asked: dict[str, Any], channel: int, tell: int, go: int, step: Step) -> None:
    """The first process of the process namespace. Never returns."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        settle(asked, step)
        os.write(go, b"1")
        os.close(go)
        os.close(tell)
        init.serve(socket.socket(fileno=channel), "/work", alone=True)
    except BaseException as error:
        said = {"step": step.name, "text": str(error) or type(error).__name__, "errno": getattr(error, "errno", None)}
        with contextlib.suppress(OSError):
            os.write(tell, json.dumps(said).encode() + b"\n")
    finally:
        os._exit(0)


def _serve(channel: int, tell: int, work: str, pid: int, *, alone: bool, scoped: bool = False) -> None:
    os.write(tell, json.dumps({"pid": pid}).encode() + b"\n")
    os.close(tell)
    init.serve(socket.socket(fileno=channel), work, alone=alone, scoped=scoped)


def shut(asked: dict[str, Any], step: Step, fence: landlock.Fence | None = None, *, signals: bool = True) -> None:
    """Gives up everything that could be used to get out."""
    step("limit")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    step("drop capabilities")
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.bound_capabilities()
    with contextlib.suppress(OSError):
        kernel.drop_capabilities()  # a user without any may be refused even this
    if fence is not None:
        step("fence off files")
        fence.enter()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # commands cannot look into this process
    step("refuse system calls")
    calls.install(calls.program(loopback=asked["loopback"], signals=signals))


def leave_root(uid: int) -> None:
    """Becomes this user, if this is root."""
    if os.geteuid() == 0:
        kernel.become(uid)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or /proc/self/uid_map stays root's


def build(asked: dict[str, Any]) -> None:
    """Mounts the new root: a small memory file system, the readable folders, devices and a work folder of limited size."""
    stage = asked["stage"]
    kernel.mount("tmpfs", stage, "tmpfs", _SEEN, "size=1m,nr_inodes=512,mode=755")
    for source, target in asked["binds"]:
        _bind(source, stage + target)
    for link, target in asked["links"]:
        os.makedirs(os.path.dirname(stage + link), exist_ok=True)
        os.symlink(target, stage + link)
    os.makedirs(stage + "/dev", exist_ok=True)
    for name in _DEVICES:
        place = f"{stage}/dev/{name}"
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
        kernel.mount(f"/dev/{name}", place, None, kernel.MS_BIND)
    for name, target in _LINKS.items():
        os.symlink(target, f"{stage}/dev/{name}")
    for name in ("proc", "work"):
        os.makedirs(f"{stage}/{name}", exist_ok=True)
    owner = f",uid={asked['uid']},gid={asked['uid']}" if asked["kind"] == "root" else ""
    limits = f"size={asked['disk']},nr_inodes={asked['files']},mode=755{owner}"
    kernel.mount("tmpfs", stage + "/work", "tmpfs", _SEEN, limits)
    made = stage + "/work/.tmp"
    os.mkdir(made, 0o777)
    os.chmod(made, 0o1777)
    if asked["kind"] == "root":
        os.chown(made, asked["uid"], asked["uid"])
    os.symlink("/work/.tmp", stage + "/tmp")
    for path in asked.get("hidden", ()):
        _hide(stage + path)


def _hide(place: str) -> None:
    """Lays something empty over a file or a folder; what is not there needs no hiding."""
    if os.path.isdir(place):
        kernel.mount("tmpfs", place, "tmpfs", _SEEN | kernel.MS_RDONLY, "size=4k,nr_inodes=2,mode=755")
    elif os.path.exists(place):
        kernel.mount("/dev/null", place, None, kernel.MS_BIND)


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(source, target, None, kernel.MS_BIND)
    again = kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | kernel.MS_NOSUID
    try:
        kernel.mount("none", target, None, again | kernel.MS_NODEV)
    except OSError:  # flags the mount came with are locked in a user namespace; these must then be kept
        kernel.mount("none", target, None, again | _flags_of(target))


def _flags_of(path: str) -> int:
    found = os.statvfs(path).f_flag
    noatime, nodiratime, relatime = 0x400, 0x800, 1 << 21
    named = {os.ST_NODEV: kernel.MS_NODEV, os.ST_NOEXEC: kernel.MS_NOEXEC, 1024: noatime, 2048: nodiratime, 4096: relatime}
    return sum(flag for bit, flag in named.items() if found & bit)


def mount_proc(place: str, *, whole: bool) -> None:
    """Only processes, unless the whole of it is asked for; the first process is not shown."""
    flags = _SEEN | kernel.MS_NOEXEC
    wishes = ("hidepid=invisible", None) if whole else ("hidepid=invisible,subset=pid", "subset=pid", "hidepid=2", None)
    for wish in wishes:
        try:
            kernel.mount("proc", place, "proc", flags, wish)
            return
        except OSError:
            if wish is None:
                raise


def _raise_loopback() -> None:
    import fcntl
    import struct

    up, set_flags = 1, 0x8914
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", up))


def _write(path: str, text: str) -> None:
    place = os.open(path, os.O_WRONLY)
    try:
        os.write(place, text.encode())
    finally:
        os.close(place)
