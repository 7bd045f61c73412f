"""Which isolation this machine gives, found by trying it, and the strongest of what is asked for; never silently less."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast

from phronesis.errors import SandboxFault, SandboxUnavailable
from phronesis.sandbox.box import Box
from phronesis.sandbox.bubblewrap import Bubblewrap
from phronesis.sandbox.docker import Docker
from phronesis.sandbox.spec import BoxSpec, Guarantees, Limits, Tier
from phronesis.sandbox.sweep import below
from phronesis.sandbox.zygotes import Zygote


class Sandbox(Protocol):
    """A way of making boxes."""

    async def open(self, spec: BoxSpec) -> Box:
        """A new box."""
        ...

    def close(self) -> None:
        """Ends all that is left."""
        ...


def _namespaces() -> Sandbox:
    return Zygote("root" if os.geteuid() == 0 else "user")


MAKERS: dict[Tier, Callable[[], Sandbox]] = {
    "namespaces": _namespaces,
    "bubblewrap": Bubblewrap,
    "docker": Docker,
    "landlock": lambda: Zygote("landlock"),
    "process": lambda: Zygote("plain"),
}
"""How each tier is started, the preferred first."""
STRENGTH: dict[Tier, int] = {"namespaces": 2, "bubblewrap": 2, "docker": 2, "landlock": 1, "process": 0}
"""Tiers of one number may stand for one another."""


class Found(NamedTuple):
    """A tier on this machine."""

    tier: Tier
    guarantees: Guarantees | None
    """None when it does not work here."""
    reason: str
    """Why not; empty when it works."""


async def start(at_least: Tier = "namespaces", *, allow_unsafe: bool = False) -> Sandbox:
    """The preferred way of making boxes that is at least so strong and works on this machine.

    Args:
        at_least: the weakest acceptable tier.
        allow_unsafe: also accept plain processes, which isolate nothing.

    Raises:
        SandboxUnavailable: there is none; the message says why each failed.
    """
    reasons: list[str] = []
    for tier, make in MAKERS.items():
        if STRENGTH[tier] < (0 if allow_unsafe else max(STRENGTH[at_least], 1)):
            continue
        try:
            sandbox = make()
        except SandboxUnavailable as error:
            reasons.append(f"{tier}: {error}")
            continue
        try:
            await (await sandbox.open(BoxSpec())).close()
            return sandbox
        except SandboxFault as error:
            sandbox.close()
            reasons.append(f"{tier}: {error}")
    raise SandboxUnavailable(
        f"no isolation at least as strong as {at_least!r} works here; {'; '.join(reasons) or 'nothing was tried'}. "
        "`phronesis doctor sandbox` shows what does"
    )


async def survey(tiers: Sequence[Tier] = tuple(MAKERS)) -> list[Found]:
    """Tries every tier and what it promises."""
    return [await examine(tier) for tier in tiers]


async def examine(tier: Tier) -> Found:
    """Opens a box of a tier and tries to get out of it in harmless ways."""
    try:
        sandbox = MAKERS[tier]()
    except SandboxUnavailable as error:
        return Found(tier, None, str(error))
    try:
        async with await sandbox.open(BoxSpec(disk=1 << 20, files=64)) as box:
            return Found(tier, await _guarantees(tier, box), "")
    except SandboxFault as error:
        return Found(tier, None, str(error))
    finally:
        sandbox.close()


_TRY = """
import json, os, socket
secret, port, abstract = {secret!r}, {port}, {abstract!r}
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(1)
        s.connect(address)
def fill():
    with open("filler", "wb") as file:
        for _ in range(8):
            file.write(b"x" * (1 << 18))
def crowd():
    for i in range(128):
        open("crowd%d" % i, "w").close()
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps(dict(
    user=os.getuid() not in (0, {uid}),
    files=refused(lambda: open(secret).read()) and not os.access("/usr", os.W_OK),
    network=refused(lambda: connect(socket.AF_INET, ("127.0.0.1", port)))
        and refused(lambda: connect(socket.AF_UNIX, chr(0) + abstract)),
    processes=refused(lambda: os.kill({host}, 0)),
    calls=libc.unshare(0x10000000) != 0 and libc.syscall(425, 1, 0) != 0,
    disk=refused(fill) and refused(crowd),
)))
"""


async def _guarantees(tier: Tier, box: Box) -> Guarantees:
    abstract = f"phronesis-{os.getpid()}-{id(box)}"
    with contextlib.ExitStack() as stack:
        secret = stack.enter_context(tempfile.NamedTemporaryFile("w", prefix="phronesis-secret-"))
        os.chmod(secret.name, 0o644)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        local = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        local.bind("\0" + abstract)
        local.listen(1)
        text = _TRY.format(
            secret=secret.name, port=listener.getsockname()[1], abstract=abstract, host=os.getpid(), uid=_own_user(box)
        )
        ran = await box.run_python(text, limits=Limits(seconds=20))
    if not ran.ok:
        raise SandboxFault(f"the trial in a box failed: {ran.stderr.text.strip()[-300:]}")
    seen = cast("dict[str, bool]", json.loads(ran.stdout.text))
    return Guarantees(
        tier=tier,
        kill=await _all_dead(box),
        memory="cgroup" if box.group is not None else "polled",
        note=_note(tier, box),
        **seen,
    )


def _own_user(box: Box) -> int:
    """The host's user, unless the box shows nobody in its place."""
    return os.getuid() if box.tier in ("landlock", "process") else -1


async def _all_dead(box: Box) -> bool:
    """Whether a process that left its session is gone when the command has ended."""
    left = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(30)\nprint(1)"
    await box.run_python(left, limits=Limits(seconds=5))
    return not below(box.first)


def _note(tier: Tier, box: Box) -> str:
    if tier == "process":
        return "isolates nothing; for trusted commands only"
    if tier == "landlock":
        shared = "" if os.geteuid() == 0 else "commands run as you; "
        return f"{shared}the work folder is bounded by file only; commands can see nothing of /proc"
    if tier == "bubblewrap":
        return "the number of files in the work folder is not bounded"
    return "made by root, who is then dropped" if os.geteuid() == 0 else "in a user namespace"
