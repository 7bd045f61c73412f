"""A family of tasks about programs: a work tree with several small shell scripts, one of which is broken."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import Struct

from phronesis.envs.terminal.job import Check, Job
from phronesis.envs.terminal.texts import PEOPLE, SERVICES


class Program(Struct, frozen=True, kw_only=True):
    """A script that reads lines and prints something about them."""

    name: str
    """File name."""
    about: str
    """What it is meant to print."""
    text: str
    """The script as it should be."""
    bugs: tuple[tuple[str, str], ...]
    """Pieces of it and what breaks it in their place."""
    reference: Callable[[Sequence[Sequence[str]]], Sequence[str]]
    """What it should print, of the words of each line."""


def _ranked(rows: Sequence[Sequence[str]], column: int, most: int) -> list[str]:
    counts = Counter(row[column] for row in rows)
    return [f"{name} {counts[name]}" for name in sorted(counts, key=lambda n: (-counts[n], n))[:most]]


def _sums(rows: Sequence[Sequence[str]]) -> list[str]:
    names = sorted({row[1] for row in rows})
    return [f"{name} {sum(int(row[3]) for row in rows if row[1] == name)}" for name in names]


def _mean(rows: Sequence[Sequence[str]]) -> list[str]:
    values = [int(row[3]) for row in rows if row[2] == "ok"]
    return [f"{sum(values) * 10 // len(values)}" if values else "none"]


def _longest(rows: Sequence[Sequence[str]]) -> list[str]:
    best: dict[str, int] = {}
    for row in rows:
        best[row[0]] = max(best.get(row[0], 0), int(row[3]))
    return [f"{name}={best[name]}" for name in sorted(best)]


PROGRAMS = (
    Program(
        name="top.sh",
        about="the three services (second column) with most lines, as `service count`, most first, then in order of the name",
        text="cut -d' ' -f2 | sort | uniq -c | sort -k1,1nr -k2,2 | head -n 3 | awk '{print $2, $1}'\n",
        bugs=(
            ("-f2", "-f1"), ("| sort | uniq", "| uniq"), ("-k1,1nr", "-k1,1n"), ("head -n 3", "tail -n 3"),
            ("$2, $1", "$1, $2"),
        ),
        reference=lambda rows: _ranked(rows, 1, 3),
    ),
    Program(
        name="sums.sh",
        about="the sum of the milliseconds (fourth column) of each service, as `service sum`, in order of the service",
        text="awk '{sum[$2] += $4} END {for (s in sum) print s, sum[s]}' | LC_ALL=C sort\n",
        bugs=(("+=", "="), ("$4}", "$3}"), ("[$2]", "[$1]"), ("sort", "sort -r")),
        reference=_sums,
    ),
    Program(
        name="failed.sh",
        about="the number of lines whose third column is `failed`",
        text="awk '$3 == \"failed\" {n++} END {print n + 0}'\n",
        bugs=(("==", "!="), ("$3", "$2"), ("n++", "n = 1"), ("n + 0", "NR")),
        reference=lambda rows: [str(sum(row[2] == "failed" for row in rows))],
    ),
    Program(
        name="users.sh",
        about="every user (first column) of a line that is not `ok`, in capitals, each once, in alphabetical order",
        text="grep -v ' ok ' | cut -d' ' -f1 | tr a-z A-Z | LC_ALL=C sort -u\n",
        bugs=(("grep -v", "grep"), ("-f1", "-f2"), ("a-z A-Z", "A-Z a-z"), ("sort -u", "sort"), ("' ok '", "'o'")),
        reference=lambda rows: sorted({row[0].upper() for row in rows if row[2] != "ok"}),
    ),
    Program(
        name="mean.sh",
        about="ten times the mean of the milliseconds of the `ok` lines, rounded down, or `none` without any",
        text="awk '$3 == \"ok\" {s += $4; n++} END {if (n) print int(10 * s / n); else print \"none\"}'\n",
        bugs=(("n++", "n = 1"), ("10 * s", "s"), ("s += $4", "s = $4"), ("== ", "!= "), ("/ n)", "/ NR)")),
        reference=_mean,
    ),
    Program(
        name="longest.sh",
        about="the longest time of each user, as `user=milliseconds`, in order of the user",
        text="awk '$4 > m[$1] {m[$1] = $4} END {for (u in m) print u \"=\" m[u]}' | LC_ALL=C sort\n",
        bugs=(("$4 >", "$4 <"), ("= $4}", "= $3}"), ('"="', '" "'), ("$4 > m[$1] ", "")),
        reference=_longest,
    ),
)  # fmt: skip
"""All of them read ``user service outcome milliseconds``."""


def lines(source: random.Random, count: int) -> str:
    """Lines for the programs."""
    outcomes = ("ok", "ok", "failed", "late")
    return "".join(
        f"{source.choice(PEOPLE)} {source.choice(SERVICES)} {source.choice(outcomes)} {source.randrange(2, 900)}\n"
        for _ in range(count)
    )


def _told(program: Program, text: str) -> str:
    return "".join(f"{line}\n" for line in program.reference([line.split() for line in text.splitlines()]))


def script(source: random.Random, difficulty: int) -> Job:
    """A broken script is to be mended; the others must go on working."""
    chosen = source.sample(PROGRAMS, min(1 + difficulty, 3))
    broken = chosen[0]
    bugs = source.sample(broken.bugs, 1 if difficulty < 3 else 2)
    spoilt = broken.text
    for old, new in bugs:
        spoilt = spoilt.replace(old, new, 1)
    head = "#!/bin/sh\n"
    files = {f"bin/{p.name}": f"{head}# Prints {p.about}.\n{p.text}" for p in chosen}
    files[f"bin/{broken.name}"] = f"{head}# Prints {broken.about}.\n{spoilt}"
    sample = lines(source, 20)
    files |= {"sample.in": sample, "sample.out": _told(broken, sample)}
    tests: list[Check] = []
    for i, program in enumerate([broken, broken, *chosen[1:]]):
        given = lines(source, 40)
        tests.append(
            Check(
                name=f"{program.name} on other lines",
                kind="run",
                before=False if i == 0 else None if i == 1 else True,
                argv=("sh", f"bin/{program.name}"),
                stdin=given,
                text=_told(program, given),
                copies=(f"bin/{program.name}",),
            )
        )
    text = (
        f"bin/{broken.name} is broken. It reads lines `user service outcome milliseconds` and should print {broken.about}. "
        f"For sample.in it should print what is in sample.out. Mend it; the other scripts work and must go on working."
    )
    mended = f"cat > bin/{broken.name} <<'EOF'\n{head}{broken.text}EOF"
    return Job(
        family="script",
        text=text,
        files=files,
        modes={f"bin/{p.name}": 0o755 for p in chosen},
        tests=tuple(tests),
        solution=(f"sh bin/{broken.name} < sample.in | diff - sample.out", mended),
        product=f"bin/{broken.name}",
    )
