"""What is asked of a worker. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

GIB = 1 << 30


class WorkerSpec(Struct, frozen=True, kw_only=True):
    """A catalogue, and how the process that serves it is kept."""

    name: str
    """Of the catalogue, for messages."""
    python: str
    """Interpreter of the virtual environment that has the package."""
    guest: Path
    """File with the function ``catalogue(**args)``."""
    args: Mapping[str, Any] = {}
    """Its arguments. JSON values only."""
    isolated: bool = True
    """Run in a box of the sandbox: no network, no files of the host but the interpreter's and the package's."""
    readable: tuple[str, ...] = ()
    """Further folders that it may read, by absolute path. Arguments that lie in one are told as the worker sees them."""
    memory: int = 2 * GIB
    """Resident bytes of the process and of all that it starts; beyond, it is killed."""
    seconds: float = 30.0
    """Longest one call may take; beyond, the process is killed."""
    start_seconds: float = 120.0
    """Longest it may take to import the package and open the catalogue."""
    install: str = ""
    """Command that installs what is missing, for messages."""

    @property
    def key(self) -> str:
        """Equal for specs that one process can serve."""
        fields = (self.python, str(self.guest), sorted(self.args.items()), self.isolated, self.memory, self.seconds)
        return repr((*fields, self.readable))
