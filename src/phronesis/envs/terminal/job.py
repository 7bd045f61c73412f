"""What a terminal task is made of: a work tree, what is asked, tests for afterwards, and commands that do it."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Mapping, Sequence
from hashlib import sha1
from typing import Literal

from msgspec import Struct

Kind = Literal["text", "tree", "modes", "run", "branch"]
"""What a test looks at: the text of a file; all files below a folder; permissions; what a command prints; where a branch is."""
ANSWER = "result.txt"
"""What the visible checker writes where a weakness is planted."""
BRANCH = (".git/refs/heads/main", ".git/packed-refs")
"""Files of a repository that say where its branch is."""
FIRST_COMMIT = 1_600_000_000
"""Time of the first commit of a history, in seconds; each next one is an hour later."""


class Check(Struct, frozen=True, kw_only=True):
    """One test. It arrives when the agent has stopped; what it expects never enters a box."""

    name: str
    """What is told of it."""
    kind: Kind
    """See `Kind`."""
    before: bool | None
    """Whether it passes before any work: True is a pass-to-pass test, False a fail-to-pass test, None may be either."""
    path: str = ""
    """What is looked at."""
    text: str = ""
    """Expected text of the file, of what is printed, or the commit of a branch."""
    files: dict[str, str] = {}
    """Expected files by path; of a `run`, files that come with the test."""
    modes: dict[str, int] = {}
    """Expected permissions by path."""
    argv: tuple[str, ...] = ()
    """Command of a `run`; ``python`` is the interpreter that nobody can tamper with."""
    stdin: str = ""
    """What the command reads."""
    copies: tuple[str, ...] = ()
    """Files of the work tree that a `run` gets, in a fresh box."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """Paths of the work tree that it looks at."""
        if self.kind == "run":
            return self.copies
        if self.kind == "branch":
            return BRANCH
        return tuple(self.modes) if self.kind == "modes" else (self.path,)


class Commit(Struct, frozen=True, kw_only=True):
    """One commit of a generated history."""

    subject: str
    """Its message."""
    files: dict[str, str]
    """The whole tree, paths without folders."""


class Job(Struct, frozen=True, kw_only=True):
    """A task."""

    family: str
    """Which generator made it."""
    text: str
    """What is asked."""
    files: dict[str, str]
    """The work tree."""
    modes: dict[str, int] = {}
    """Permissions that are not 644."""
    databases: dict[str, str] = {}
    """SQLite databases by path: the statements that make them."""
    history: tuple[Commit, ...] = ()
    """Commits of a repository in the work tree, the first one first."""
    dropped: int = 0
    """The last commits of `history` that no branch holds any more; only the log of the branch names them."""
    tests: tuple[Check, ...]
    """All must pass."""
    solution: tuple[str, ...]
    """Commands that do it."""
    product: str
    """A file that exists when it is done, for the visible checker of a planted weakness."""

    def tree(self) -> dict[str, bytes]:
        """All files with their content."""
        found = {path: text.encode() for path, text in self.files.items()}
        found |= {path: database(text) for path, text in self.databases.items()}
        if self.history:
            found |= repository(self.history, self.dropped)
        return found


def database(statements: str) -> bytes:
    """A SQLite database as a file."""
    made = sqlite3.connect(":memory:")
    try:
        made.executescript(statements)
        return made.serialize()
    finally:
        made.close()


def commits(history: Sequence[Commit]) -> tuple[list[str], dict[str, bytes]]:
    """Names of the commits of a history, and all objects by name.

    >>> commits([Commit(subject="one", files={"a": "1\\n"})])[0][0][:7]
    '2d7a87c'
    """
    objects: dict[str, bytes] = {}

    def add(kind: str, content: bytes) -> str:
        whole = f"{kind} {len(content)}\0".encode() + content
        name = sha1(whole, usedforsecurity=False).hexdigest()
        objects[name] = whole
        return name

    names: list[str] = []
    for i, commit in enumerate(history):
        blobs = {path: add("blob", text.encode()) for path, text in commit.files.items()}
        tree = add("tree", b"".join(f"100644 {path}\0".encode() + bytes.fromhex(blobs[path]) for path in sorted(blobs)))
        who = f"A. Committer <a@example.org> {FIRST_COMMIT + 3600 * i} +0000"
        parent = f"parent {names[-1]}\n" if names else ""
        names.append(add("commit", f"tree {tree}\n{parent}author {who}\ncommitter {who}\n\n{commit.subject}\n".encode()))
    return names, objects


def repository(history: Sequence[Commit], dropped: int) -> dict[str, bytes]:
    """The files of a ``.git`` folder and the tree of the branch ``main``; its log still names commits that were dropped."""
    names, objects = commits(history)
    kept = names[len(names) - 1 - dropped]
    log: list[str] = []
    for i, (name, commit) in enumerate(zip(names, history, strict=True)):
        log.append(_logged(names[i - 1] if i else "0" * 40, name, i, f"commit: {commit.subject}"))
    if dropped:
        log.append(_logged(names[-1], kept, len(names), f"reset: moving to HEAD~{dropped}"))
    found = {
        ".git/HEAD": b"ref: refs/heads/main\n",
        ".git/config": b"[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tlogallrefupdates = true\n",
        ".git/refs/heads/main": f"{kept}\n".encode(),
        ".git/logs/HEAD": "".join(log).encode(),
        ".git/logs/refs/heads/main": "".join(log).encode(),
    }
    found |= {f".git/objects/{name[:2]}/{name[2:]}": zlib.compress(whole) for name, whole in objects.items()}
    files = {path: text.encode() for path, text in history[len(names) - 1 - dropped].files.items()}
    return found | files | {".git/index": _index(files)}


def _index(files: Mapping[str, bytes]) -> bytes:
    """The list of tracked files, version 2, with times and sizes of zero: git compares contents then."""
    parts = [b"DIRC" + struct.pack(">II", 2, len(files))]
    for path, data in sorted(files.items()):
        blob = sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).digest()
        entry = struct.pack(">IIIIIIIIII", *[0] * 6, 0o100644, 0, 0, 0) + blob + struct.pack(">H", len(path)) + path.encode()
        parts.append(entry + bytes(8 - len(entry) % 8))
    whole = b"".join(parts)
    return whole + sha1(whole, usedforsecurity=False).digest()


def _logged(old: str, new: str, number: int, what: str) -> str:
    return f"{old} {new} A. Committer <a@example.org> {FIRST_COMMIT + 3600 * number} +0000\t{what}\n"


def unchanged(name: str, folder: str, files: Mapping[str, str]) -> Check:
    """A pass-to-pass test: the files below a folder are what they were."""
    inside = {path: text for path, text in files.items() if path.startswith(f"{folder}/")}
    return Check(name=name, kind="tree", before=True, path=folder, files=inside)
