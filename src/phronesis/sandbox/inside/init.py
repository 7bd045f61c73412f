"""The first process of a box: starts commands, reaps what they leave, opens files for the host. It holds no secret.

It speaks JSON over a socket of packets; descriptors travel beside the text.

====== =============================================================== ==================================
op     fields                                                          answer
====== =============================================================== ==================================
run    ``id, argv, cwd, env, limits``; stdin, stdout, stderr           ``{"exit": id, ...}`` when it ended
end    ``id, group``                                                   ``{"ok": id}`` when its process group is dead
kill   ``id``                                                          ``{"ok": id}`` when nothing is left
read   ``id, path``                                                    ``{"ok": id, size}`` and the file
write  ``id, path, mode``; a file with the content                     ``{"ok": id}``
list   ``id, path, most``                                              ``{"ok": id, entries}``
====== =============================================================== ==================================
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import stat
import sys
from typing import Any, cast

from phronesis.sandbox.inside import kernel, landlock

PACKET = 1 << 17
"""Most bytes of one message."""
PYTHON = "@python"
"""As `argv[0]`: run the rest as Python in a copy of this interpreter, which has already started."""
LIMITS = {
    "memory": resource.RLIMIT_AS,
    "cpu": resource.RLIMIT_CPU,
    "file_size": resource.RLIMIT_FSIZE,
    "processes": resource.RLIMIT_NPROC,
    "open_files": resource.RLIMIT_NOFILE,
    "stack": resource.RLIMIT_STACK,
}


def serve(channel: socket.socket, folder: str, *, alone: bool, scoped: bool = False) -> None:
    """Answers until the host closes its end.

    Args:
        channel: to the host.
        folder: the only one whose files are handed out.
        alone: whether this process is the first of a process namespace, which may kill all others. Else the host does it.
        scoped: whether commands have to be kept from signalling this process, which is of their user.
    """
    Init(channel, folder, alone=alone, scoped=scoped).run()


class Init:
    """State of one box."""

    def __init__(self, channel: socket.socket, folder: str, *, alone: bool, scoped: bool = False):
        if alone and os.getpid() != 1:  # or `kill` would reach every process of this user
            raise OSError(1, "not the first process of a process namespace of its own")
        self.channel, self.folder, self.alone, self.scoped = channel, folder, alone, scoped
        self.root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.running: dict[int, int] = {}
        """Command id by process."""
        self.groups: dict[int, int] = {}
        """Process group by command id."""
        self.killing: int | None = None

    def run(self) -> None:
        """The loop."""
        awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            ready, _, _ = select.select([self.channel, awake], [], [])
            if awake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(awake, 4096)
            self.reap()
            if self.channel in ready and not self.answer():
                return

    def answer(self) -> bool:
        """Does what one message asks. False when the host has gone."""
        data, descriptors, _, _ = socket.recv_fds(self.channel, PACKET, 8)
        if not data:
            return False
        message = cast("dict[str, Any]", json.loads(data))
        try:
            getattr(self, f"do_{message['op']}")(message, descriptors)
        except (OSError, ValueError) as error:  # a name may hold what no file system takes; that must not end the box
            self.say({"failed": message["id"], "errno": getattr(error, "errno", None), "text": str(error)})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def say(self, message: dict[str, object], descriptors: tuple[int, ...] = ()) -> None:
        """Tells the host; a host that has gone need not hear it."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self.channel, [json.dumps(message).encode()], descriptors)

    def do_run(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Starts a command."""
        pid = os.fork()
        if pid == 0:
            _become(message, descriptors, scoped=self.scoped)
        self.running[pid] = message["id"]
        self.groups[message["id"]] = pid

    def do_end(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Kills what is left of the process group of a command."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.groups.pop(message["group"]), signal.SIGKILL)
        self.say({"ok": message["id"]})

    def do_kill(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Kills everything but this process, or waits until the host has done it."""
        self.killing = message["id"]
        self.reap()

    def do_read(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Hands out a regular file."""
        found = kernel.open_beneath(self.root, message["path"], os.O_RDONLY | os.O_NONBLOCK)
        try:
            about = os.fstat(found)
            if not stat.S_ISREG(about.st_mode):
                raise OSError(22, f"{message['path']!r} is not a regular file")
            self.say({"ok": message["id"], "size": about.st_size}, (found,))
        finally:
            os.close(found)

    def do_write(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Makes or replaces a file, and the folders above it."""
        *above, name = [part for part in message["path"].split("/") if part]
        for depth in range(1, len(above) + 1):
            _make_folder(self.root, "/".join(above[:depth]))
        path = "/".join([*above, name])
        parent = kernel.open_beneath(self.root, "/".join(above) or ".", os.O_PATH | os.O_DIRECTORY)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)  # what is there may be a link to elsewhere, or read-only
        os.close(parent)
        made = kernel.open_beneath(self.root, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, message["mode"])
        try:
            os.fchmod(made, message["mode"])
            size, done = os.fstat(descriptors[0]).st_size, 0
            while done < size:
                done += os.sendfile(made, descriptors[0], done, size - done)
        finally:
            os.close(made)
        self.say({"ok": message["id"]})

    def do_list(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Names what is below a folder, links unfollowed, at most so many entries and so many bytes of names."""
        entries: list[tuple[str, int, int]] = []
        room = PACKET // 2
        pending = [message["path"] or "."]
        while pending and len(entries) < message["most"] and room > 0:
            folder = pending.pop(0)
            handle = kernel.open_beneath(self.root, folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for name in sorted(set(os.listdir(handle)) - {".tmp"}):
                    about = os.lstat(name, dir_fd=handle)
                    path = name if folder == "." else f"{folder}/{name}"
                    entries.append((path, about.st_mode, about.st_size))
                    room -= 6 * len(path) + 32
                    if stat.S_ISDIR(about.st_mode):
                        pending.append(path)
            finally:
                os.close(handle)
        whole = not pending and len(entries) <= message["most"] and room > 0
        while room < 0 and entries:
            room += 6 * len(entries.pop()[0]) + 32
        self.say({"ok": message["id"], "entries": entries[: message["most"]], "whole": whole})

    def reap(self) -> None:
        """Collects the dead, and tells of commands among them."""
        while True:
            if self.killing is not None and self.alone and os.getpid() == 1:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)  # spares the caller
            try:
                pid, status, used = os.wait4(-1, 0 if self.killing is not None else os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                return
            if pid in self.running:
                self.say({
                    "exit": self.running.pop(pid),
                    "code": os.waitstatus_to_exitcode(status),
                    "cpu": used.ru_utime + used.ru_stime,
                    "memory": used.ru_maxrss * 1024,
                })  # fmt: skip
        if self.killing is not None:
            self.say({"ok": self.killing})
            self.killing = None


def _nothing(number: int, frame: object) -> None:
    """What a signal does that only wakes the loop."""


def _make_folder(root: int, path: str) -> None:
    parent, _, name = path.rpartition("/")
    above = kernel.open_beneath(root, parent or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=above)
    finally:
        os.close(above)


def _become(message: dict[str, Any], descriptors: list[int], *, scoped: bool) -> None:
    """Turns a fork of the first process into the command. Never returns."""
    code = 126
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        for target, source in enumerate(descriptors[:3]):
            os.dup2(source, target)
        os.closerange(3, 1 << 16)
        if scoped:
            landlock.keep_signals_inside()
        os.chdir(message["cwd"])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for name, value in message["limits"].items():
            resource.setrlimit(LIMITS[name], (value, value))
        argv = message["argv"]
        if argv[0] == PYTHON:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # its own /proc/self is its own
            code = _python(argv[1:], message["env"])
        else:
            os.execvpe(argv[0], argv, message["env"])
    except FileNotFoundError as error:
        code = 127
        _complain(error)
    except BaseException as error:
        _complain(error)
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def _complain(error: BaseException) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{type(error).__name__}: {error}\n".encode())


def _python(argv: list[str], env: dict[str, str]) -> int:
    """Runs a file, or the text after ``-c``, as a program of its own.

    Only a file imports from its folder: the text is often the host's own, and the work folder holds what a policy left there.
    """
    import traceback

    os.environ.clear()
    os.environ.update(env)
    if argv and argv[0] == "-c":
        name, text, sys.argv = "<string>", argv[1], ["-c", *argv[2:]]
    else:
        name, sys.argv = argv[0], argv
        with open(name, encoding="utf-8") as file:
            text = file.read()
    main = type(sys)("__main__")
    main.__dict__.update(__builtins__=__builtins__, __file__=name)
    sys.modules["__main__"] = main
    if name != "<string>":
        sys.path.insert(0, os.path.dirname(os.path.abspath(name)))
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    try:
        exec(compile(text, name, "exec"), main.__dict__)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)  # noqa: T201
        return 1
    except BaseException as error:
        shown = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, shown)
        return 1
    finally:
        import threading

        with contextlib.suppress(BaseException):
            threading._shutdown()  # pyright: ignore  # waits for threads as an ordinary end does
        with contextlib.suppress(BaseException):
            import atexit

            atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    return 0
