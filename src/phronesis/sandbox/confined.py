"""An executable file that runs another program in namespaces of its own: no network, no files of the host but programs.

For programs that somebody else starts and drives through inherited descriptors; `sandbox.start` makes boxes for all others.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from phronesis.sandbox.spec import MIB, BoxSpec
from phronesis.sandbox.zygotes import FIND_INSIDE, FIRST_UID, PACKAGE, interpreter, view

OWN_UIDS = FIRST_UID - 100_000_000
"""Users of confined programs: this and the number of the process, which lies below those of boxes."""


class Confined(Struct, kw_only=True):
    """The executable file, in a folder of its own."""

    path: Path
    """Runs the program; arguments are passed on."""
    folder: Path

    @property
    def pid(self) -> int | None:
        """The process that runs it, once it was started; the program is below it."""
        try:
            return int((self.folder / "pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Removes the file."""
        shutil.rmtree(self.folder, ignore_errors=True)


def confined(
    command: Sequence[str],
    *,
    last: Sequence[str] = (),
    readable: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    disk: int = 256 * MIB,
) -> Confined:
    """Writes the file. Whether namespaces can be made here shows when it is run: else it ends with status 97 and says why.

    Args:
        command: path of the program and first arguments.
        last: arguments put after those that the file is called with.
        readable: host folders to show besides the system's own.
        environment: all variables of the program, besides PATH and HOME.
        disk: bytes of its work folder, which is all it can write to.
    """
    folder = Path(tempfile.mkdtemp(prefix="phronesis-confined-"))
    folder.chmod(0o755)
    stage = folder / "root"
    stage.mkdir(mode=0o755)
    pid = folder / "pid"
    pid.touch()
    binds, links = view(BoxSpec(readable=readable))
    asked = {
        "kind": "root" if os.geteuid() == 0 else "user", "uid": OWN_UIDS, "stage": str(stage), "binds": binds,
        "links": links, "work": "/work", "disk": disk, "files": 20_000, "loopback": False, "whole_proc": True,
        "pid": str(pid), "environment": {"PATH": "/usr/bin:/bin", "HOME": "/work", "LANG": "C.UTF-8", **(environment or {})},
    }  # fmt: skip
    path, ran = folder / "run", f"{list(command)!r} + rest + {list(last)!r}"
    path.write_text(
        f"#!{interpreter()} -IS\nimport json, sys\nrest = sys.argv[1:]\nsys.argv = ['', {str(PACKAGE)!r}]\n{FIND_INSIDE}\n"
        f"from phronesis.sandbox.inside.program import main\nmain(json.loads({json.dumps(asked)!r}), {ran})\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return Confined(path=path, folder=folder)
