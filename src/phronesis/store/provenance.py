"""What ran: versions, commit and machine, so that a run can be understood and repeated later."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from phronesis.store.layout import FORMAT

PACKAGES = ("phronesis", "torch", "transformers", "tokenizers", "numpy", "msgspec", "gymnasium")


def utc_now() -> str:
    """ISO stamp with milliseconds, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def provenance() -> dict[str, object]:
    """Format of the folder, time, versions, commit, platform, command. Asks metadata, imports nothing heavy."""
    return {
        "format": FORMAT,
        "created": utc_now(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "commit": commit(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "command": sys.argv,
    }


def package_version(name: str) -> str | None:
    """The installed version of a package; None when it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """Commit of the checkout the package runs from, with ``+dirty`` when files differ; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    tracked = _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)  # a copy inside another project is not ours
    head = _git(folder, "rev-parse", "HEAD") if tracked else None
    if head is None:
        return None
    return head + ("+dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
