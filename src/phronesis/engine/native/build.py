"""Compiles the decoding step for this machine once and keeps it; says why where that is not possible.

Nothing is compiled at installation: the compiler of the machine that runs (``$CC``, cc, gcc or clang, else the one in the
package ziglang, which is the extra ``compiler``) builds `step.c` for its own processor on first use, in a few seconds, into
the user's cache folder. A machine without a compiler loses speed only: PyTorch does the same arithmetic. The rule this module
keeps: whatever is wrong with compiler, folder or library, `built` answers and never raises.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("step.c")
FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
TARGETS = ("-march=native", "-mcpu=native", "")
"""Tried in order; what a compiler calls its own processor differs."""
INTERFACE = 5
"""Of the structures in `compute`; `step.c` answers with its own."""
PATIENCE = 120.0
"""Seconds a compiler may take."""


class Built(NamedTuple):
    """The outcome."""

    library: ctypes.CDLL | None
    """None when it could not be built."""
    note: str
    """What was built, or why not, in one line."""


class Unusable(Exception):
    """A library, folder or compiler that does not work; says why in one line."""


@functools.cache
def built() -> Built:
    """The compiled step, built at the first call of any process on this machine."""
    compiler = _compiler()
    if not compiler:
        wanted = os.environ.get("CC", "cc, gcc or clang")
        return Built(None, f"no C compiler ({wanted} is not on the PATH; pip install 'phronesis[compiler]' brings one)")
    try:
        name = _name(compiler)
    except Unusable as error:
        return Built(None, str(error))
    reasons: list[str] = []
    for folder in _folders():
        try:
            return _from(folder, name, compiler)
        except Unusable as error:
            reasons.append(str(error))
    return Built(None, "; ".join(dict.fromkeys(reasons)))


def compile_step(compiler: Sequence[str], target: Path, flags: Sequence[str]) -> None:
    """Compiles `step.c`.

    Args:
        compiler: the command.
        target: where the library goes.
        flags: for the processor, e.g. ``-march=native``.

    Raises:
        Unusable: it failed; carries the last line of what the compiler said.
    """
    own = {"ZIG_GLOBAL_CACHE_DIR": str(target.parent), "ZIG_LOCAL_CACHE_DIR": str(target.parent)}  # else it wants the user's
    _run([*compiler, *FLAGS, *flags, "-o", str(target), str(SOURCE), "-lm"], own)


def _from(folder: Path, name: str, compiler: Sequence[str]) -> Built:
    """The library in a folder, compiled there when it is missing or cannot be loaded."""
    _ready(folder)
    path = folder / name
    if path.exists():
        try:
            return Built(_loaded(path), f"found {path}")
        except Unusable:
            path.unlink(missing_ok=True)  # half written, or of another machine: a new one takes two seconds
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fresh = Path(scratch, name)
            _compile(compiler, fresh)
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            fresh.replace(path)  # another process may have been faster; both made the same thing
    except OSError as error:
        raise Unusable(f"{folder} cannot be used: {error}") from error
    return Built(_loaded(path), f"built {path}")


def _compile(compiler: Sequence[str], target: Path) -> None:
    """Compiles for this processor, or for any of its kind where the compiler has no word for it."""
    failed = Unusable("no flags to compile with")
    for flag in TARGETS:
        try:
            return compile_step(compiler, target, [flag] if flag else [])
        except Unusable as error:
            failed = error
    raise failed


def _loaded(path: Path) -> ctypes.CDLL:
    """The library, known to be ours and of the interface `compute` speaks."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o022 or not _ours(found):
            raise Unusable(f"{path} may have been written by somebody else")
        library = ctypes.CDLL(str(path))
        interface = int(library.phronesis_interface())
    except (OSError, AttributeError) as error:
        raise Unusable(f"{path} cannot be loaded: {error}") from error
    if interface != INTERFACE:
        raise Unusable(f"{path} has interface {interface}, expected {INTERFACE}: step.c and build.py differ")
    return library


def _compiler() -> list[str]:
    """The command of a C compiler; empty when there is none."""
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        return chosen if shutil.which(chosen[0]) else []
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if found is not None:
        return [found]
    return [sys.executable, "-m", "ziglang", "cc"] if importlib.util.find_spec("ziglang") else []


def _name(compiler: Sequence[str]) -> str:
    """The library's file name, which holds everything it depends on."""
    parts = (
        SOURCE.read_text(encoding="utf-8"),
        _run([*compiler, "--version"], {"ZIG_GLOBAL_CACHE_DIR": tempfile.gettempdir()}),
        " ".join((*FLAGS, *TARGETS)),
        _processor(),
    )  # fmt: skip
    return f"step-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a command says; `environment` is added to this process's own."""
    shown = " ".join(command[: 3 if "ziglang" in command else 1])
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", encoding="utf-8", timeout=PATIENCE, check=False,
            env=os.environ | dict(environment or {}),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise Unusable(f"{shown} failed: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise Unusable(f"{shown} failed: {said[-1]}")
    return done.stdout


def _folders() -> list[Path]:
    """Where libraries are looked for and kept, best first."""
    cache, home = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~")  # Path.home would raise where there is none
    if not os.path.isabs(cache):
        cache = os.path.join(home, ".cache") if os.path.isabs(home) and home != "/" else ""
    found = [Path(cache, "phronesis")] if cache else []
    user = os.getuid() if hasattr(os, "getuid") else 0
    return [*found, Path(tempfile.gettempdir(), f"phronesis-{user}")]


def _ready(folder: Path) -> None:
    """Makes a folder that only we can write to: what lies there is executed."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise Unusable(f"{folder} cannot be used: {error}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022 or not _ours(found):
        raise Unusable(f"{folder} can be written by others, so nothing there is run; chmod go-w would do")


def _ours(found: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or found.st_uid == os.getuid()


def _processor() -> str:
    """What the code is compiled for: a library from a shared home folder must not run on another processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.system()} {platform.machine()} {platform.processor()} {features}"
