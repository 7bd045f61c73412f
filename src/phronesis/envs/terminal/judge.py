"""Judging what an agent left, on the host: files are read below the work folder without following links, and what has to be
run is run in a fresh box that holds nothing but the files a test names."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from phronesis.envs import boxes
from phronesis.envs.terminal.job import Check
from phronesis.sandbox import Box, BoxSpec, Entry, Limits, Ran, Refused

MOST_FILES = 500
"""Entries of the work tree that are looked at."""
MOST_BYTES = 8 << 20
"""Bytes of one file that are looked at."""
CPU, TIME = 1, 3.0
"""CPU-seconds of one process, and seconds on the clock, that a command of a test may take: a busy machine is nobody's fault."""


class Left(Struct, frozen=True, kw_only=True):
    """Something an agent left in the work tree."""

    kind: str
    """file, folder, link or other."""
    mode: int
    """Permissions."""
    data: bytes = b""
    """Content of a file."""


Tree = Mapping[str, Left]
"""What there is, by path."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What came of a test."""

    test: str
    """Its name."""
    before: bool | None
    """See `Check.before`."""
    passed: bool
    """Whether it passed."""


async def look(box: Box, paths: Iterable[str] = (".",)) -> dict[str, Left]:
    """What there is at and below some paths, with the content of files. Links are named and never followed.

    A file is found however much lies beside it. A folder that holds more than can be listed holds something else (`other`).

    Raises:
        SandboxFault: the box broke.
    """
    found: dict[str, Left] = {}
    for path in paths:
        if path == ".":
            entries = await box.entries(".", MOST_FILES)
        else:
            above = path.rpartition("/")[0] or "."
            entries = [e for e in await _entries(box, above) if e.path == path]
            if not entries:  # not there, or too much beside it
                entries = await _below(box, path) or [Entry(path, 0, "file", 0)]
            elif entries[0].kind == "folder":
                entries += await _below(box, path)
        for entry in entries:
            data = b""
            if entry.kind == "file":
                try:
                    data = await box.read(entry.path, MOST_BYTES)
                except Refused:
                    continue  # nobody may read it, so it holds nothing
            found[entry.path] = Left(kind=entry.kind, mode=entry.mode, data=data)
    return found


async def judge(tree: Tree, tests: Sequence[Check], spec: BoxSpec) -> list[Verdict]:
    """Every test on what was left.

    Args:
        tree: see `look`; must hold what the tests want.
        tests: at least one.
        spec: of the fresh boxes.

    Raises:
        SandboxFault: a box broke; then nothing is known of the agent.
    """
    found: list[Verdict] = []
    endless: set[str] = set()
    for test in tests:
        if test.kind != "run":
            passed = _compare(tree, test)
        elif endless & set(test.copies):  # it would take as long again
            passed = False
        else:
            ran = await _run(tree, test, spec)
            passed = ran is not None and _right(ran, test)
            if ran is not None and (ran.stopped == "time" or ran.cpu > 0.9 * CPU):
                endless |= set(test.copies)
        found.append(Verdict(test=test.name, before=test.before, passed=passed))
    return found


def _compare(tree: Tree, test: Check) -> bool:
    match test.kind:
        case "text":
            return _same(_file(tree, test.path), test.text)
        case "tree":
            inside = {path: left for path, left in tree.items() if path.startswith(f"{test.path}/") and left.kind != "folder"}
            return inside.keys() == test.files.keys() and all(_same(_file(tree, p), t) for p, t in test.files.items())
        case "modes":
            return all(
                (left := tree.get(p)) is not None and left.kind != "link" and left.mode == m for p, m in test.modes.items()
            )
        case _:
            return _branch(tree, ".git") == test.text


def _file(tree: Tree, path: str) -> bytes | None:
    """The content of a regular file."""
    left = tree.get(path)
    return left.data if left is not None and left.kind == "file" else None


def _same(data: bytes | None, text: str) -> bool:
    """Equality, but for line ends at the very end."""
    return data is not None and data.rstrip(b"\n") == text.encode().rstrip(b"\n")


def _branch(tree: Tree, folder: str) -> str:
    """The commit of the branch ``main`` of a repository, as its files say."""
    loose = _file(tree, f"{folder}/refs/heads/main")
    if loose is not None:
        return loose.decode("utf-8", "replace").strip()
    packed = (_file(tree, f"{folder}/packed-refs") or b"").decode("utf-8", "replace").splitlines()
    return next((line.split()[0] for line in packed if line.endswith(" refs/heads/main")), "")


def _right(ran: Ran, test: Check) -> bool:
    return ran.ok and ran.stopped is None and not ran.stdout.truncated and _same(ran.stdout.data, test.text)


async def _run(tree: Tree, test: Check, spec: BoxSpec) -> Ran | None:
    """What came of the command of a test; None when there is nothing to run it on."""
    if any(_file(tree, path) is None for path in test.copies):
        return None

    async def use(box: Box) -> Ran:
        for path in test.copies:
            await box.write(path, tree[path].data, executable=bool(tree[path].mode & 0o111))
        for path, text in test.files.items():
            await box.write(path, text.encode())
        program = box.python if test.argv[0] == "python" else test.argv[0]
        return await box.run([program, *test.argv[1:]], stdin=test.stdin.encode(), limits=Limits(seconds=TIME, cpu=CPU))

    return await boxes.tried(spec, use)


async def _below(box: Box, folder: str) -> list[Entry]:
    try:
        return await box.entries(folder, MOST_FILES, whole=True)
    except Refused as refused:
        return [Entry(f"{folder}/...", 0, "other", 0)] if refused.errno == errno.E2BIG else []


async def _entries(box: Box, folder: str) -> list[Entry]:
    try:
        return await box.entries(folder, MOST_FILES)
    except Refused:
        return []
