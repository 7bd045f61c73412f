"""Every example of README.md and docs/*.md runs, in order, one namespace and one empty folder per page.

* ```` ```python ```` is executed; ```` ```python no-run ```` is not (for fragments that need a GPU, say).
* ```` ```python name.py ```` and ```` ```toml name.toml ```` are saved under that name, for what follows to use.
* In ```` ```console run ```` each line ``$ phronesis ...`` must exit with code 0, or with N after ``# exit code N``; the lines
  below a command that end in ``...`` or hold no number must appear in what it prints. ``$ printf 'LINES' | phronesis ...``
  types the lines.
* In a plain ```` ```console ```` the phronesis commands are not run, but their names and options must exist; the settings of
  `train` with a recipe must resolve, too.
"""

from __future__ import annotations

import importlib
import io
import logging
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import typer

from phronesis.cli.main import COMMANDS, main
from phronesis.log import ROOT as LOGGER
from phronesis.train.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(?P<mark>[^\n]*)\n(?P<body>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:python|toml) (?P<name>\w+\.(?:py|toml))")
LINK = re.compile(r"\]\((?P<target>[^)#:]+)(?:#[^)]*)?\)")


class Block(NamedTuple):
    """One fenced block of a page."""

    mark: str
    body: str
    line: int


class Command(NamedTuple):
    """One command of a console block, with what the page says it prints."""

    words: list[str]
    code: int
    shown: list[str]
    typed: str = ""


def blocks(text: str) -> list[Block]:
    return [Block(m["mark"].strip(), m["body"], text.count("\n", 0, m.start("body"))) for m in FENCE.finditer(text)]


def commands(body: str) -> list[Command]:
    found: list[Command] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            text, _, note = line.removeprefix("$ ").partition("  # ")
            code = re.search(r"exit code (\d+)", note)
            first, pipe, second = text.partition(" | ")
            typed = shlex.split(first)[1].replace("\\n", "\n") if pipe and first.startswith("printf ") else ""
            found.append(Command(shlex.split(second if typed else text), int(code[1]) if code else 0, [], typed))
        elif found and line.strip():
            found[-1].shown.append(line)
    return found


@pytest.fixture
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder that can be imported from; what examples import, log to or set is put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    logger = logging.getLogger(LOGGER)
    before = logger.handlers[:], logger.level, logger.propagate, torch.get_num_threads(), set(sys.modules)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
    torch.set_num_threads(before[3])
    for name in set(sys.modules) - before[4]:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_run(page: Path, tmp_path: Path, untouched: None, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        file = FILE.fullmatch(block.mark)
        if block.mark == "python":
            # Leading newlines make a traceback point at the line of the page.
            exec(compile("\n" * block.line + block.body, str(page), "exec"), namespace)
        elif file is not None:
            (tmp_path / file["name"]).write_text(block.body, encoding="utf-8")
        elif block.mark == "console run":
            for command in commands(block.body):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("sys.stdin", io.StringIO(command.typed))
                    run_command(command, page, capsys)


def run_command(command: Command, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.words[0] == "phronesis", f"{page.name}: only phronesis commands are run, not {command.words}"
    capsys.readouterr()
    code = main(command.words[1:])
    printed = "".join(capsys.readouterr())
    assert code == command.code, f"{page.name}: {shlex.join(command.words)}\n{printed}"
    for line in command.shown:
        start = line.removesuffix("...")
        if start != line or not re.search(r"\d", line):
            assert start in printed, f"{page.name}: {shlex.join(command.words)} does not print {start!r} but\n{printed}"


def parse(words: list[str]) -> None:
    """Reads a command line as `phronesis` would, without doing what it says."""
    assert words[0] in COMMANDS, f"there is no command {words[0]!r}"
    command = typer.main.get_command(importlib.import_module(f"phronesis.cli.{words[0]}").app)
    rest = words[1:]
    inner = getattr(command, "commands", {})
    if inner and rest and not rest[0].startswith("-"):
        assert rest[0] in inner, f"{words[0]!r} has no command {rest[0]!r}"
        command, rest = inner[rest[0]], rest[1:]
    command.make_context(words[0], rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_that_are_not_run_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = [c for b in blocks(page.read_text(encoding="utf-8")) if b.mark == "console" for c in commands(b.body)]
    for command in shown:
        if command.words[0] == "phronesis":
            words = shlex.split(shlex.join(command.words[1:]), comments=True)
            parse(words)
            if words[0] == "train" and words[1] in RECIPES:
                assert main([*words, "--show"]) == 0, capsys.readouterr()


def test_a_misspelt_command_is_noticed() -> None:
    parse(["env", "check", "guess", "--seconds", "5"])
    with pytest.raises(AssertionError, match="no command 'evl'"):
        parse(["evl", "runs/a"])
    with pytest.raises(AssertionError, match="'env' has no command 'chek'"):
        parse(["env", "chek", "guess"])
    with pytest.raises(Exception, match="No such option: --sed"):
        parse(["train", "quickstart", "--sed", "3"])


def test_no_page_is_empty() -> None:
    """Every page has a title and at least a few sentences."""
    pages = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in PAGES}
    assert [name for name, text in pages.items() if not text.startswith("# ") or len(text.split()) < 100] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = [m["target"] for m in LINK.finditer(page.read_text(encoding="utf-8"))]
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_the_map_of_the_readme_is_the_package() -> None:
    tree = next(b.body for b in blocks((ROOT / "README.md").read_text(encoding="utf-8")) if b.body.startswith("src/phronesis/"))
    mapped = [line.split()[0] for line in tree.splitlines()[1:]]
    package = ROOT / "src" / "phronesis"
    rooms = {f"{p.name}/" for p in package.iterdir() if p.is_dir() and p.name != "__pycache__" and any(p.glob("*.py"))}
    files = {p.name for p in package.glob("*.py")} - {"__init__.py"}
    assert sorted(mapped) == sorted(rooms | files)


def test_files_named_in_the_docs_exist() -> None:
    missing: list[str] = []
    for page in (ROOT / "docs" / "architecture.md", ROOT / "docs" / "paper-index.md", ROOT / "CONTRIBUTING.md"):
        for name in re.findall(r"`([\w./]+/[\w.]*|[\w/]+\.(?:py|toml|sh))`", page.read_text(encoding="utf-8")):
            places = (ROOT / name, ROOT / "src" / "phronesis" / name, ROOT / "docs" / name)
            if not any(p.exists() for p in places) and not name.startswith("runs/"):
                missing.append(f"{page.name}: {name}")
    assert missing == []


def test_blocks_know_their_line() -> None:
    page = "text\n\n```python\na = 1\n```\n\n```console run\n$ phronesis --help\n```\n"
    assert blocks(page) == [Block("python", "a = 1\n", 3), Block("console run", "$ phronesis --help\n", 7)]


def test_commands_know_their_code_and_what_they_print() -> None:
    body = "$ phronesis trian 'a b'  # exit code 2\nerror: unknown...\n\n$ phronesis env list\n"
    assert commands(body) == [
        Command(["phronesis", "trian", "a b"], 2, ["error: unknown..."]),
        Command(["phronesis", "env", "list"], 0, []),
    ]
    assert commands("$ printf 'guess 5\\nguess 7\\n' | phronesis play guess\n") == [
        Command(["phronesis", "play", "guess"], 0, [], "guess 5\nguess 7\n")
    ]
