"""Families of tasks about the state of things: where files lie, who may use them, what a repository and a database hold."""

from __future__ import annotations

import random

from phronesis.envs.terminal.job import Check, Commit, Job, commits, unchanged
from phronesis.envs.terminal.texts import CITIES, PEOPLE

WORDS = ("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "lagoon")
"""Parts of names and contents."""


def note(source: random.Random) -> str:
    """A line of text that occurs nowhere else."""
    return f"{' '.join(source.sample(WORDS, 3))} {source.randrange(1000, 9999)}\n"


def tidy(source: random.Random, difficulty: int) -> Job:
    """Files of a heap are put in their places."""
    files: dict[str, str] = {"keep/README": note(source)}
    moved: dict[str, str] = {}
    for _ in range(4 + 3 * difficulty):
        year, kind = source.choice((2021, 2022, 2023)), source.choice(("txt", "csv", "log"))
        name = f"{source.choice(WORDS)}-{source.randrange(100, 999)}"
        while f"archive/{year}/{name}.{kind}" in moved:  # in capitals it would be another file for the same place
            name = f"{source.choice(WORDS)}-{source.randrange(100, 999)}"
        shown = name.upper() if difficulty > 1 and source.random() < 0.4 else name
        content = note(source)
        files[f"inbox/{year}_{shown}.{kind}"] = content
        moved[f"archive/{year}/{name}.{kind}"] = content
    if difficulty > 1:
        files[f"inbox/2022_{source.choice(WORDS)}-000.txt"] = ""
    if difficulty > 2:
        files["inbox/my notes.txt"] = files["keep/README"]
    rules = ["Move every file inbox/YEAR_NAME.KIND to archive/YEAR/NAME.KIND"]
    rules += [", with NAME in lower case, and delete the empty ones"] if difficulty > 1 else []
    rules += [". Delete files of inbox/ whose name does not begin with a year"] if difficulty > 2 else []
    text = f"{''.join(rules)}. Nothing stays in inbox/. Leave keep/ as it is."
    loop = (
        "for f in inbox/*; do n=$(basename \"$f\"); case $n in 20[0-9][0-9]_*) ;; *) rm -- \"$f\"; continue;; esac; "
        "[ -s \"$f\" ] || { rm -- \"$f\"; continue; }; y=${n%%_*}; mkdir -p archive/$y; "
        "mv -- \"$f\" archive/$y/$(echo \"${n#*_}\" | tr A-Z a-z); done"
    )  # fmt: skip
    return Job(
        family="tidy",
        text=text,
        files=files,
        tests=(
            Check(name="archive", kind="tree", before=False, path="archive", files=moved),
            Check(name="inbox is empty", kind="tree", before=False, path="inbox"),
            unchanged("keep is as it was", "keep", files),
        ),
        solution=(loop,),
        product=min(moved),
    )


def permissions(source: random.Random, difficulty: int) -> Job:
    """Permissions follow from what files are."""
    files: dict[str, str] = {}
    modes: dict[str, int] = {}
    wanted: dict[str, int] = {}
    for i in range(3 + 2 * difficulty):
        folder = source.choice(("app", "app/lib", "tools"))
        script = i == 0 or source.random() < 0.5
        path = f"{folder}/{source.choice(WORDS)}{i}{'' if difficulty > 1 else '.sh' if script else '.txt'}"
        files[path] = f"#!/bin/sh\necho {note(source)}" if script else note(source)
        wanted[path] = 0o755 if script else 0o644
        modes[path] = source.choice((0o644, 0o600, 0o666) if script else (0o755, 0o777, 0o666))
    for i in range(difficulty):
        path = f"app/{source.choice(WORDS)}{i}.key"
        files[path] = note(source)
        wanted[path], modes[path] = 0o600, source.choice((0o644, 0o666, 0o755))
    text = (
        "Below app/ and tools/, give every file that ends in .key the permissions 600, every other file that begins with #! "
        "755, and all other files 644. Change nothing else."
    )
    contents = [Check(name=f"{p} is as it was", kind="text", before=True, path=p, text=t) for p, t in sorted(files.items())]
    loop = (
        "find app tools -type f | while read -r f; do case $f in *.key) m=600;; *) "
        "if [ \"$(head -c 2 \"$f\")\" = '#!' ]; then m=755; else m=644; fi;; esac; chmod $m \"$f\"; done"
    )  # fmt: skip
    return Job(
        family="permissions",
        text=text,
        files=files,
        modes=modes,
        tests=(Check(name="permissions", kind="modes", before=False, modes=wanted), *contents),
        solution=("mkdir -p tools app", loop),
        product=min(files),
    )


def history(source: random.Random, difficulty: int) -> Job:
    """Something is brought back from the history of a repository."""
    names = source.sample(WORDS, 3)
    tree = {f"{name}.txt": "".join(note(source) for _ in range(3)) for name in names}
    made = [Commit(subject=f"Add {names[0]}", files=dict(tree))]
    for i in range(2 + 2 * difficulty):
        changed = f"{source.choice(names)}.txt"
        tree = {**tree, changed: tree[changed] + note(source)}
        made.append(Commit(subject=f"{source.choice(('Extend', 'Note in', 'Update'))} {changed} {i}", files=dict(tree)))
    kind = source.choice(("deleted", "reset", "culprit"))
    if kind == "deleted":
        return _deleted(source, made, f"{source.choice(names)}.txt")
    if kind == "reset":
        return _reset(source, made)
    return _culprit(source, made, f"{source.choice(names)}.txt")


def _deleted(source: random.Random, made: list[Commit], lost: str) -> Job:
    content = made[-1].files[lost]
    rest = {path: text for path, text in made[-1].files.items() if path != lost}
    made.append(Commit(subject="Clean up", files=rest))
    other = min(rest)
    last = {**rest, other: rest[other] + note(source)}
    made.append(Commit(subject=f"Update {other}", files=last))
    return Job(
        family="history",
        text=(
            f"In the git repository in this folder, {lost} was deleted some commits ago. Bring it back into the folder as it "
            "was last, and leave the other files as they are. A commit is not needed."
        ),
        files={},
        history=tuple(made),
        tests=(
            Check(name=f"{lost} is back", kind="text", before=False, path=lost, text=content),
            *(Check(name=f"{p} is as it was", kind="text", before=True, path=p, text=t) for p, t in sorted(last.items())),
        ),
        solution=(f"git show $(git rev-list -n 1 HEAD -- {lost})^:{lost} > {lost}",),
        product=lost,
    )


def _reset(source: random.Random, made: list[Commit]) -> Job:
    dropped = source.randrange(1, min(3, len(made) - 1) + 1)
    return Job(
        family="history",
        text=(
            f"In the git repository in this folder, somebody has reset the branch main and so lost its last {dropped} "
            f"commit{'s' if dropped > 1 else ''}. Bring the branch and the files back to where they were."
        ),
        files={},
        history=tuple(made),
        dropped=dropped,
        tests=(
            Check(name="the branch is back", kind="branch", before=False, text=commits(made)[0][-1]),
            *(Check(name=f"{p} is back", kind="text", before=None, path=p, text=t) for p, t in sorted(made[-1].files.items())),
        ),
        solution=("git reset -q --hard 'HEAD@{1}'",),
        product=".git/HEAD",
    )


def _culprit(source: random.Random, made: list[Commit], path: str) -> Job:
    text = made[-1].files[path]
    lines = [line for line in text.splitlines() if sum(line in commit.files[path] for commit in made) < len(made)]
    line = source.choice(lines or text.splitlines())
    subject = next(commit.subject for commit in made if line in commit.files[path])
    return Job(
        family="history",
        text=(
            f"Which commit of the git repository in this folder brought the line `{line}` into {path}? Write the subject of "
            "that commit into answer.txt, and leave the other files as they are."
        ),
        files={},
        history=tuple(made),
        tests=(
            Check(name="answer", kind="text", before=False, path="answer.txt", text=subject),
            *(
                Check(name=f"{p} is as it was", kind="text", before=True, path=p, text=t)
                for p, t in sorted(made[-1].files.items())
            ),
        ),
        solution=(f"git log --format=%s -S '{line}' -- {path} | tail -n 1 > answer.txt",),
        product="answer.txt",
    )


QUERY = """
import json, sqlite3, sys
found = sqlite3.connect("file:shop.db?mode=ro", uri=True)
print(json.dumps(found.execute(sys.argv[1]).fetchall()))
"""


TABLES = "SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%' ORDER BY name"
"""What can be selected from: a view may hide what should be deleted."""


def rows(name: str, query: str, expected: list[list[object]], *, before: bool) -> Check:
    """A test of what a query gives."""
    shown = "[" + ", ".join("[" + ", ".join(_json(v) for v in row) + "]" for row in expected) + "]"
    argv = ("python", "-c", QUERY, query)
    return Check(name=name, kind="run", before=before, argv=argv, text=shown, copies=("shop.db",))


def _json(value: object) -> str:
    return "null" if value is None else f'"{value}"' if isinstance(value, str) else str(value)


def shop(source: random.Random, difficulty: int) -> Job:
    """The rows of a database are put right."""
    people = source.sample(PEOPLE, 4 + difficulty)
    cities = [source.choice(CITIES) for _ in people]
    orders = [[k, source.randrange(1, len(people) + 1), source.randrange(1, 90)] for k in range(1, 6 + 4 * difficulty)]
    bad = source.sample(range(len(orders)), 1 + difficulty)
    for k in bad:
        orders[k][1] = len(people) + 10 + k
    statements = ["CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, city TEXT, total INTEGER);"]
    statements += ["CREATE TABLE purchase (id INTEGER PRIMARY KEY, customer INTEGER, amount INTEGER);"]
    statements += [
        f"INSERT INTO customer VALUES ({i}, '{n}', '{c}', -1);" for i, (n, c) in enumerate(zip(people, cities, strict=True), 1)
    ]
    statements += [f"INSERT INTO purchase VALUES ({k}, {c}, {a});" for k, c, a in orders]
    kept: list[list[object]] = [list(order) for k, order in enumerate(orders) if k not in bad]
    totals = [sum(a for _, c, a in orders if c == i) for i in range(1, len(people) + 1)]
    named: list[list[object]] = [[i, n, c] for i, (n, c) in enumerate(zip(people, cities, strict=True), 1)]
    text = "In the SQLite database shop.db, delete every row of purchase whose customer is not the id of a row of customer"
    changes = ["DELETE FROM purchase WHERE customer NOT IN (SELECT id FROM customer)"]
    tests = [
        rows("tables are tables", TABLES, [["table", "customer"], ["table", "purchase"]], before=True),
        rows("purchases", "SELECT id, customer, amount FROM purchase ORDER BY id", kept, before=False),
        rows("customers are as they were", "SELECT id, name, city FROM customer ORDER BY id", named, before=True),
    ]
    if difficulty > 1:
        text += "; then set total of every customer to the sum of the amounts of the purchases, 0 without any"
        changes.append(
            "UPDATE customer SET total = (SELECT coalesce(sum(amount), 0) FROM purchase WHERE purchase.customer = customer.id)"
        )
        summed: list[list[object]] = [[i, total] for i, total in enumerate(totals, 1)]
        tests.append(rows("totals", "SELECT id, total FROM customer ORDER BY id", summed, before=False))
    made = "".join(f'db.execute("""{change}"""); ' for change in changes)
    return Job(
        family="shop",
        text=f"{text}. Change nothing else.",
        files={},
        databases={"shop.db": "\n".join(statements)},
        tests=tuple(tests),
        solution=(f"python3 -c 'import sqlite3; db = sqlite3.connect(\"shop.db\"); {made}db.commit()'",),
        product="shop.db",
    )
