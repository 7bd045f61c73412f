"""Every Python block of README.md and docs/*.md runs, in order, one namespace per file, in an empty folder.

A block marked ```` ```python ```` is executed; ```` ```python no-run ```` is not (for fragments that need a GPU, say).
In a block marked ```` ```console run ```` each line ``$ phronesis ...`` must exit with code 0.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(?P<mark>[^\n]*)\n(?P<body>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block of a page."""

    mark: str
    body: str
    line: int


def blocks(text: str) -> list[Block]:
    return [Block(m["mark"].strip(), m["body"], text.count("\n", 0, m.start("body"))) for m in FENCE.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.mark == "python":
            # Leading newlines make a traceback point at the line of the page.
            exec(compile("\n" * block.line + block.body, str(page), "exec"), namespace)
        elif block.mark == "console run":
            for line in block.body.splitlines():
                if line.startswith("$ phronesis "):
                    run_command(line, page)


def run_command(line: str, page: Path) -> None:
    arguments = shlex.split(line.removeprefix("$ phronesis "))
    command = [sys.executable, "-c", "import sys; from phronesis.cli.main import main; sys.exit(main())", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"}, check=False)
    assert done.returncode == 0, f"{page.name}: {line}\n{done.stdout}{done.stderr}"


def test_blocks_know_their_line() -> None:
    page = "text\n\n```python\na = 1\n```\n\n```console run\n$ phronesis --help\n```\n"
    assert blocks(page) == [Block("python", "a = 1\n", 3), Block("console run", "$ phronesis --help\n", 7)]
