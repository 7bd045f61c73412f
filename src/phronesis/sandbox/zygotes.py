"""Starting boxes through a small interpreter that is always ready (see `inside.zygote`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from phronesis.errors import SandboxFault
from phronesis.sandbox.box import Box
from phronesis.sandbox.spec import BoxSpec, Tier

Kind = Literal["root", "user", "landlock", "plain"]
"""Namespaces made by root, who is then dropped, or by a user in a user namespace; Landlock without namespaces; or nothing."""
TIERS: dict[Kind, Tier] = {"root": "namespaces", "user": "namespaces", "landlock": "landlock", "plain": "process"}

PACKAGE = Path(__file__).resolve().parent.parent
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Folders that programs need."""
SETTINGS = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/mime.types", "/etc/magic", "/etc/ssl/certs")
"""Of /etc, what programs need and everybody may read."""
FIRST_UID, PER_ZYGOTE = 2_000_000_000, 512
"""Users of boxes: numbers that nobody has, one range for each zygote."""

FIND_INSIDE = """
import sys, types
root = sys.argv[1]
for name, path in (("phronesis", root), ("phronesis.sandbox", root + "/sandbox")):
    module = types.ModuleType(name)
    module.__path__ = [path]
    sys.modules[name] = module
"""
"""Lets `sandbox.inside` be imported from the folder in `argv[1]` without running the rest of the package."""
BOOT = (
    FIND_INSIDE
    + """
from phronesis.sandbox.inside.zygote import main
main(int(sys.argv[2]))
"""
)


def interpreter() -> str:
    """The Python outside of any virtual environment."""
    return os.path.realpath(cast("str", getattr(sys, "_base_executable", sys.executable)))


def view(spec: BoxSpec) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Folders and files to show, as pairs of host and inside, and links to make, as pairs of link and target."""
    shown, links = dict[str, str](), dict[str, str]()
    for path in SYSTEM:
        if os.path.islink(path):
            links[path] = os.readlink(path)
        elif os.path.isdir(path):
            shown[path] = path
    for path in (*SETTINGS, sys.base_prefix, *spec.readable):
        whole = os.path.abspath(path)
        if os.path.exists(whole) and not any(whole == s or whole.startswith(s + "/") for s in shown):
            shown[os.path.realpath(whole) if path in SETTINGS else whole] = whole
    return list(shown.items()), list((links | dict(spec.links)).items())


def hidden(spec: BoxSpec, package: Path = PACKAGE) -> list[str]:
    """What commands find empty: what was asked for, and this package where it lies among what is shown, e.g. installed beside
    the standard library, since the answers of a world can be read or made with it.

    Args:
        spec: of the box.
        package: where this package lies.
    """
    own = [
        os.path.join(inside, package.relative_to(top))
        for host, inside in view(spec)[0]
        if package.is_relative_to(top := os.path.realpath(host))
    ]
    return [*spec.hidden, *own]


def environment(spec: BoxSpec, work: str = "/work") -> dict[str, str]:
    """Variables of every command."""
    folders = [os.path.join(sys.base_prefix, "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
    own = {"PATH": ":".join(dict.fromkeys(folders)), "HOME": work, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    return {**own, **spec.environment}


class Zygote:
    """The interpreter, and the boxes forked from it."""

    def __init__(self, kind: Kind):
        """Starts it.

        Args:
            kind: of its boxes.
        """
        self.kind: Kind = kind
        self.stage = tempfile.mkdtemp(prefix="phronesis-box-")
        os.chmod(self.stage, 0o755)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket = ours
        with theirs:
            arguments = [interpreter(), "-I", "-S", "-c", BOOT, str(PACKAGE), str(theirs.fileno())]
            self.process = subprocess.Popen(
                arguments, env={}, cwd="/", pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self.free = list(range(PER_ZYGOTE))
        self.turn = asyncio.Lock()

    @property
    def tier(self) -> Tier:
        """What its boxes are called."""
        return TIERS[self.kind]

    async def open(self, spec: BoxSpec) -> Box:
        """A new box.

        Raises:
            SandboxFault: a step failed; the message names it.
        """
        if self.kind in ("landlock", "plain") and (spec.hidden or spec.links):
            raise SandboxFault(f"boxes of the tier {self.tier!r} cannot hide files or link to the work folder")
        if not self.free:
            raise SandboxFault(f"{PER_ZYGOTE} boxes are open; close some")
        slot = self.free.pop(0)
        uid = FIRST_UID + self.process.pid * PER_ZYGOTE + slot
        own = self.kind in ("landlock", "plain")
        work = self._work(uid) if own else "/work"
        binds, links = view(spec)
        asked = {
            "kind": self.kind, "uid": uid, "stage": self.stage, "binds": binds, "links": links, "work": work, "disk": spec.disk,
            "files": spec.files, "hidden": [] if own else hidden(spec), "loopback": spec.loopback,
            "whole_proc": spec.whole_proc,
        }  # fmt: skip
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                told = await self._ask(asked, theirs.fileno())
            if "pid" not in told:
                raise SandboxFault(f"a box could not be made: {told['step']}: {told['text']}")
            return Box(
                spec, self.tier, ours, told["pid"], environment=environment(spec, work), python="@python", work=work,
                sweeps=own, on_close=lambda: self._closed(slot, work),
            )  # fmt: skip
        except BaseException:
            ours.close()
            self._closed(slot, work)
            raise

    def close(self) -> None:
        """Ends it and every box."""
        self.socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.stage, ignore_errors=True)

    async def _ask(self, asked: Mapping[str, object], descriptor: int) -> dict[str, Any]:
        data = json.dumps(asked).encode()

        def exchange() -> bytes:
            socket.send_fds(self.socket, [data], [descriptor])
            return self.socket.recv(1 << 17)

        async with self.turn:
            try:
                answer = await asyncio.to_thread(exchange)
            except OSError as error:
                raise SandboxFault(f"the interpreter that makes boxes has ended: {error}") from error
        if not answer:
            raise SandboxFault(f"the interpreter that makes boxes has ended with status {self.process.poll()}")
        return cast("dict[str, Any]", json.loads(answer))

    def _work(self, uid: int) -> str:
        work = tempfile.mkdtemp(prefix="phronesis-work-")
        os.mkdir(os.path.join(work, ".tmp"))
        if os.geteuid() == 0 and self.kind != "plain":
            for path in (work, os.path.join(work, ".tmp")):
                os.chown(path, uid, uid)
        return work

    def _closed(self, slot: int, work: str) -> None:
        self.free.append(slot)
        if work != "/work":
            shutil.rmtree(work, ignore_errors=True)
