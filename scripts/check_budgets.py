"""Checks the sizes and habits that a linter does not: `python scripts/check_budgets.py`.

Exit code 1 when a hard limit is broken; aims that are missed are printed as notes and do not fail.

| what | aim | limit |
|---|---|---|
| lines of a file in src/ | 400 | 500 |
| lines of a function, docstring not counted | 60 | 100 |
| positional parameters of a function, self and torch's ctx not counted; commands have none | 4 | 6 |
| docstring on every public module, class, function | | always |
| paths of one machine, unfinished-work markers, imports of phronesis inside a function | | never |
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES = (400, 500)
FUNCTION_LINES = (60, 100)
PARAMETERS = (4, 6)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|work|root|opt|Users|mnt)/\w")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".sh", ".yml", ".yaml", ".cfg", ""}

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Finding(NamedTuple):
    """One broken limit (`hard`) or missed aim."""

    path: Path
    line: int
    text: str
    hard: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {'error' if self.hard else 'note'}: {self.text}"


def grade(path: Path, line: int, what: str, value: int, limits: tuple[int, int]) -> Iterator[Finding]:
    """A finding when `value` is over the aim (note) or the limit (error)."""
    aim, limit = limits
    if value > limit:
        yield Finding(path, line, f"{what}: {value}, limit {limit}", True)
    elif value > aim:
        yield Finding(path, line, f"{what}: {value}, aim {aim}", False)


def body_lines(node: Function) -> int:
    """Lines from the signature to the end, without the docstring.

    >>> body_lines(ast.parse('def f():\\n    "doc"\\n    return 1').body[0])
    2
    """
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def is_command(node: Function) -> bool:
    """True for a command-line command, whose parameters are options and are always passed by name."""
    names = [ast.unparse(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list]
    return any(n.endswith((".command", ".callback")) for n in names)


def check_function(path: Path, node: Function) -> Iterator[Finding]:
    """Length, parameters and inner imports of one function."""
    yield from grade(path, node.lineno, f"lines of {node.name}", body_lines(node), FUNCTION_LINES)
    positional = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls", "ctx")]
    if not is_command(node):
        yield from grade(path, node.lineno, f"positional parameters of {node.name}", len(positional), PARAMETERS)
    for inner in ast.walk(node):
        names = [a.name for a in inner.names] if isinstance(inner, ast.Import) else []
        names += [inner.module or ""] if isinstance(inner, ast.ImportFrom) else []
        for name in names:
            if name.split(".")[0] == "phronesis":
                yield Finding(path, inner.lineno, f"import of {name} inside {node.name}; import at the top of the file", True)


def public(tree: ast.Module) -> Iterator[ast.ClassDef | Function]:
    """Public classes and functions of a module, and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not inner.name.startswith("_"):
                    yield inner


def inherits_doc(node: ast.ClassDef | Function) -> bool:
    """True for an overload and for a setter, which are documented by their sibling."""
    names = [ast.unparse(d) for d in node.decorator_list]
    return any(n.endswith(("overload", ".setter", "override")) for n in names)


def check_source(path: Path, text: str) -> Iterator[Finding]:
    """All limits of one file of the package."""
    tree = ast.parse(text)
    yield from grade(path, 1, "lines of the file", text.count("\n"), FILE_LINES)
    if ast.get_docstring(tree) is None and text.strip():
        yield Finding(path, 1, "the module has no docstring", True)
    for node in public(tree):
        if ast.get_docstring(node) is None and not inherits_doc(node):
            yield Finding(path, node.lineno, f"{node.name} has no docstring", True)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from check_function(path, node)
    for number, line in enumerate(text.splitlines(), 1):
        if found := UNFINISHED.search(line):
            yield Finding(path, number, f"unfinished work: {found.group()}", True)


def check_text(path: Path, text: str) -> Iterator[Finding]:
    """What no file of the repository may contain."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := MACHINE_PATH.search(line):
            yield Finding(path, number, f"path of one machine: {found.group()!r}", True)


def repository_files() -> list[Path]:
    """Files git tracks or would track; every file when this is not a checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return sorted(p for n in listed.stdout.split("\0") if n and (p := ROOT / n).is_file())
    return sorted(
        p for p in ROOT.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(ROOT).parts)
    )


def main() -> int:
    """Prints every finding; 1 when one is hard."""
    findings: list[Finding] = []
    for path in repository_files():
        relative = path.relative_to(ROOT)
        if path.suffix not in TEXT_SUFFIXES or path == Path(__file__).resolve():
            continue
        text = path.read_text(encoding="utf-8")
        findings += check_text(relative, text)
        if relative.parts[0] == "src" and path.suffix == ".py":
            findings += check_source(relative, text)
    hard = [f for f in findings if f.hard]
    for finding in sorted(findings, key=lambda f: f.hard):
        print(finding)
    print(f"budgets: {len(hard)} errors, {len(findings) - len(hard)} notes")
    return 1 if hard else 0


if __name__ == "__main__":
    sys.exit(main())
