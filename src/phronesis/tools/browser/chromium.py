"""Chromium: where it is, how it is started, and what keeps it from everything but the pages it is given.

It runs in namespaces of its own (`sandbox.confined`): without network, without files of the host but programs and fonts,
without a way to see other processes. Where such namespaces cannot be made it is not started, unless PHRONESIS_BROWSER_UNSAFE=1
says that routing its requests is enough.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from phronesis.errors import ConfigError
from phronesis.sandbox.confined import Confined, confined

PLACES = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
VARIABLE, UNSAFE = "PHRONESIS_CHROMIUM", "PHRONESIS_BROWSER_UNSAFE"
FLAGS = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--disable-breakpad", "--disable-crash-reporter", "--disable-extensions",
    "--disable-domain-reliability", "--no-pings", "--dns-prefetch-disable", "--disable-features=WebRtcHideLocalIpsWithMdns,"
    "NetworkTimeServiceQuerying,AutofillServerCommunication,OptimizationHints,MediaRouter,DialMediaRouteProvider,Translate",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp", "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    # names lead nowhere, and whatever still asks is sent to a proxy that is not there
    "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=http://0.0.0.0:9", "--proxy-bypass-list=<-loopback>",
)  # fmt: skip
"""Besides those of Playwright. Requests of pages never get so far: they are answered by the site."""
HOME = "/work"
"""Its home inside; in memory, and gone with it."""
DISK = 512 << 20
"""Bytes of its profile and shared memory."""


class Program(Struct, kw_only=True):
    """How Chromium is started here."""

    path: str
    """Executable file that is handed to Playwright; empty for the one Playwright brings along."""
    flags: tuple[str, ...]
    own_sandbox: bool
    """Whether Chromium's own sandbox is on: only where ours is not, and it can be."""
    box: Confined | None
    """Ours; None when requests are routed and nothing else holds it."""

    def memory(self) -> int:
        """Bytes that its processes hold for themselves; 0 where that is not known."""
        if self.box is None or self.box.pid is None:
            return 0
        return sum(_own_memory(pid) for pid in below(self.box.pid))

    def kill(self) -> None:
        """Ends what is left of it, even if it hangs; all processes in its namespaces go with the first one."""
        if self.box is not None and (pid := self.box.pid) is not None and self._owns(pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _owns(self, pid: int) -> bool:
        """Whether this process is still the one that runs it; its number may have been given to another."""
        try:
            return self.box is not None and os.fsencode(self.box.path) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def close(self) -> None:
        """Removes what was made for it."""
        if self.box is not None:
            self.box.close()


def below(pid: int) -> list[int]:
    """Processes below one."""
    from_parent: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parent = int(Path(f"/proc/{name}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            from_parent.setdefault(parent, []).append(int(name))
    found, pending = list[int](), [pid]
    while pending:
        children = from_parent.get(pending.pop(), [])
        found += children
        pending += children
    return found


def _own_memory(pid: int) -> int:
    try:
        _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def find(environment: Mapping[str, str] = os.environ) -> str:
    """The executable: that of PHRONESIS_CHROMIUM, the system's, or "" for Playwright's own.

    Raises:
        ConfigError: the variable names no program.
    """
    named = environment.get(VARIABLE)
    if named is not None:
        if shutil.which(named) is None:
            raise ConfigError(f"{VARIABLE}={named!r} is no program; name the executable of Chromium")
        return named
    return next((place for place in PLACES if os.access(place, os.X_OK)), "")


def program(found: str, *, confine: bool) -> Program:
    """How to start it.

    Args:
        found: by `find`, or where Playwright keeps its own.
        confine: in namespaces of its own.
    """
    if not confine:
        root = os.geteuid() == 0  # Chromium's own sandbox refuses to be started by root
        return Program(path=found, flags=(*FLAGS, "--no-sandbox") if root else FLAGS, own_sandbox=not root, box=None)
    folder = str(Path(found).resolve().parent)
    box = confined(
        [found, "--no-sandbox", *FLAGS], last=[f"--user-data-dir={HOME}/profile"], disk=DISK,
        readable=["/etc/fonts", "/etc/chromium.d", "/etc/chromium", folder],
    )  # fmt: skip
    return Program(path=str(box.path), flags=(), own_sandbox=False, box=box)
