"""Boxes whose namespaces are made by bubblewrap (``bwrap``) instead of by us; inside, the same first process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
from typing import cast

from phronesis.errors import SandboxFault, SandboxUnavailable
from phronesis.sandbox.box import Box
from phronesis.sandbox.spec import BoxSpec
from phronesis.sandbox.zygotes import FIND_INSIDE, FIRST_UID, PACKAGE, PER_ZYGOTE, environment, hidden, interpreter, view

INSIDE = "/phronesis"
BOOT = (
    FIND_INSIDE
    + """
from phronesis.sandbox.inside import boxes, repl
asked = {"kind": "inherited", "work": "/work", "loopback": sys.argv[4] == "1"}
boxes.enter(asked, int(sys.argv[2]), int(sys.argv[3]), boxes.Step())
"""
)


class Bubblewrap:
    """Starts one ``bwrap`` for each box."""

    tier = "bubblewrap"

    def __init__(self, program: str | None = None):
        """Finds the program.

        Args:
            program: its path; None looks in PATH.

        Raises:
            SandboxUnavailable: it is not installed.
        """
        found = program or shutil.which("bwrap")
        if found is None:
            raise SandboxUnavailable("bubblewrap is not installed (program 'bwrap'); the packages are called bubblewrap")
        self.program = found
        self.slots = 0

    async def open(self, spec: BoxSpec) -> Box:
        """A new box.

        Raises:
            SandboxFault: ``bwrap`` failed; the message is its own.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        told, tell = os.pipe()
        described, describe = os.pipe()
        given = os.memfd_create("arguments", 0)
        os.write(given, "\0".join(self._arguments(spec, describe)).encode() + b"\0")
        os.lseek(given, 0, os.SEEK_SET)
        python = [interpreter(), "-I", "-S", "-c", BOOT, INSIDE, str(theirs.fileno()), str(tell), str(int(spec.loopback))]
        self.slots += 1
        user = FIRST_UID + os.getpid() * PER_ZYGOTE + self.slots % PER_ZYGOTE
        root = os.geteuid() == 0
        try:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                [self.program, "--args", str(given), "--", *python], env={}, cwd="/", stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[given, theirs.fileno(), tell, describe],
                user=user if root else None, group=user if root else None, extra_groups=[] if root else None,
            )  # fmt: skip
        finally:
            theirs.close()
            for descriptor in (tell, describe, given):
                os.close(descriptor)
        said, about = await asyncio.gather(asyncio.to_thread(_all, told), asyncio.to_thread(_all, described))
        if not said.strip():
            ours.close()
            process.kill()
            _, complaint = process.communicate()
            raise SandboxFault(
                f"a box could not be made: bwrap: {complaint.decode('utf-8', 'replace').strip() or 'no message'}"
            )
        first = cast("dict[str, int]", json.loads(about))["child-pid"]
        return Box(
            spec, "bubblewrap", ours, first, environment=environment(spec), python="@python",
            on_close=lambda: _reaped(process),
        )  # fmt: skip

    def close(self) -> None:
        """Nothing is kept between boxes."""

    def _arguments(self, spec: BoxSpec, describe: int) -> list[str]:
        binds, links = view(spec)
        arguments = ["--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--info-fd", str(describe)]
        arguments += ["--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
        for source, target in binds:
            arguments += ["--ro-bind", source, target]
        for link, target in links:
            arguments += ["--symlink", target, link]
        arguments += ["--ro-bind", str(PACKAGE / "sandbox" / "inside"), f"{INSIDE}/sandbox/inside"]
        for name in ("null", "zero", "full", "random", "urandom"):
            arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
        for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
            arguments += ["--symlink", f"/proc/self/fd{target}", f"/dev/{name}"]
        arguments += ["--proc", "/proc", "--size", str(spec.disk), "--tmpfs", "/work", "--dir", "/work/.tmp"]
        for path in filter(os.path.exists, hidden(spec)):
            folder = os.path.isdir(path)
            arguments += ["--tmpfs", path, "--remount-ro", path] if folder else ["--ro-bind", "/dev/null", path]
        return [*arguments, "--symlink", "/work/.tmp", "/tmp", "--remount-ro", "/", "--chdir", "/work"]


def _all(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


def _reaped(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)
    if process.stderr is not None:
        process.stderr.close()
