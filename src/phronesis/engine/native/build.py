"""Compiles the decoding step for this machine once and keeps it; says why where that is not possible.

Nothing is compiled at installation: the compiler of the machine that runs (``$CC``, cc, gcc or clang, else the one in the
package ziglang, which is the extra ``compiler``) builds `step.c` for its own processor on first use, in a few seconds, into
the user's cache folder. A machine without a compiler loses speed only: PyTorch does the same arithmetic.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("step.c")
FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
TARGETS = ("-march=native", "-mcpu=native", "")
"""Tried in order; what a compiler calls its own processor differs."""
INTERFACE = 2
"""Of the structures in `compute`; `step.c` answers with its own."""
PATIENCE = 120.0
"""Seconds a compiler may take."""


class Built(NamedTuple):
    """The outcome."""

    library: ctypes.CDLL | None
    """None when it could not be built."""
    note: str
    """What was built, or why not, in one line."""


@functools.cache
def built() -> Built:
    """The compiled step, built at the first call of any process on this machine."""
    compiler = _compiler()
    if not compiler:
        wanted = os.environ.get("CC", "cc, gcc or clang")
        return Built(None, f"no C compiler ({wanted} is not on the PATH; pip install 'phronesis[compiler]' brings one)")
    try:
        asked = [*compiler, "--version"]
        version = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
        path, fresh = _compiled(compiler, version)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) and error.stderr else str(error)
        last = said.strip().splitlines()[-1] if said.strip() else repr(error)
        return Built(None, f"{' '.join(compiler)} failed: {last}")
    if library.phronesis_interface() != INTERFACE:
        return Built(
            None, f"{path} has interface {library.phronesis_interface()}, expected {INTERFACE}: step.c and build.py differ"
        )
    return Built(library, f"{'built' if fresh else 'found'} {path}")


def _compiler() -> list[str]:
    """The command of a C compiler; empty when there is none."""
    chosen = os.environ.get("CC")
    if chosen:
        return [chosen] if shutil.which(chosen) else []
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if found is not None:
        return [found]
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else []


def _compiled(compiler: list[str], version: str) -> tuple[Path, bool]:
    """Path of the library, and whether it was compiled just now. The name holds everything it depends on."""
    text = SOURCE.read_bytes()
    key = hashlib.sha256(b"\0".join([text, version.encode(), " ".join((*FLAGS, *TARGETS)).encode(), _processor()])).hexdigest()
    name = f"step-{key[:16]}.so"
    for folder in _folders():
        if (folder / name).exists() and _writable(folder):  # a library in somebody else's folder is not ours
            return folder / name, False
    folder = next((f for f in _folders() if _writable(f)), None)
    if folder is None:
        raise OSError(f"none of {', '.join(str(f) for f in _folders())} can be written")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fresh = Path(scratch, name)
        _compile(compiler, fresh)
        fresh.replace(folder / name)  # another process may have been faster; both made the same thing
    return folder / name, True


def _compile(compiler: list[str], target: Path) -> None:
    """Compiles for this processor, or for any of its kind where the compiler has no word for it."""
    failed: subprocess.CompletedProcess[str] | None = None
    for flag in TARGETS:
        command = [*compiler, *FLAGS, *([flag] if flag else []), "-o", str(target), str(SOURCE), "-lm"]
        failed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if failed.returncode == 0:
            return
    if failed is not None:
        raise subprocess.CalledProcessError(failed.returncode, failed.args, stderr=failed.stderr)


def _folders() -> list[Path]:
    """Where libraries are looked for and kept, best first."""
    cache = os.environ.get("XDG_CACHE_HOME")
    home = Path(cache) if cache else Path("~/.cache").expanduser()
    user = os.getuid() if hasattr(os, "getuid") else 0
    return [home / "phronesis", Path(tempfile.gettempdir(), f"phronesis-{user}")]


def _writable(folder: Path) -> bool:
    """Whether the folder, made if need be, is ours and can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owned = not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
        with tempfile.TemporaryFile(dir=folder):
            return owned
    except OSError:
        return False


def _processor() -> bytes:
    """What the code is compiled for: a library from a shared home folder must not run on another processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.system()} {platform.machine()} {platform.processor()} {features}".encode()
