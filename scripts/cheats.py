"""Writes docs/cheats.md from scripts/cheats.toml and the worlds' own cheats: `python scripts/cheats.py [--check]`.

Every world that names cheats says of each of the twenty-four known ones which of its scripted agents plays it, or why none
does.
Names must exist, none may be forgotten. With ``--check`` nothing is written; exit code 1 when the page is out of date.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from phronesis.envs import registry
from phronesis.errors import PhronesisError

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "cheats.md"
SOURCE = ROOT / "scripts" / "cheats.toml"
COUNT = 24


class Source(NamedTuple):
    """The file."""

    cheats: dict[int, str]
    reasons: dict[str, str]
    without: dict[str, str]
    worlds: dict[str, dict[int, list[str] | str]]
    own: dict[str, list[str]]
    """Cheats of a kind that only that world has."""


def read(path: Path = SOURCE) -> Source:
    """The file, numbers as numbers."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    own = {world: lines.pop("own", []) for world, lines in found["worlds"].items()}
    worlds = {world: {int(n): told for n, told in lines.items()} for world, lines in found["worlds"].items()}
    return Source({int(n): text for n, text in found["cheats"].items()}, found["reasons"], found["without"], worlds, own)


def wrong(source: Source, world: str, named: Iterable[str]) -> list[str]:
    """What is wrong with the lines of a world whose cheats have these names."""
    lines, known = source.worlds[world], set(named)
    found = [f"{world}: nothing is said of cheat {n}" for n in range(1, COUNT + 1) if not lines.get(n)]
    found += [f"{world}: there is no cheat {n}" for n in lines if n not in source.cheats]
    used = {name for told in (*lines.values(), source.own[world]) if isinstance(told, list) for name in told}
    found += [f"{world}: no cheat is called {name!r}" for name in sorted(used - known)]
    found += [f"{world}: {name!r} plays none of the {COUNT}" for name in sorted(known - used)]
    unsaid = {told for told in lines.values() if isinstance(told, str) and " " not in told and told not in source.reasons}
    return found + [f"{world}: there is no reason {reason!r}" for reason in sorted(unsaid)]


def page(source: Source) -> str:
    """The page."""
    worlds = list(source.worlds)
    head = [
        "# Twenty-four ways to cheat",
        "",
        "Written by `python scripts/cheats.py` from `scripts/cheats.toml` and the cheats that the worlds name: change those.",
        "Every known way to be paid without doing the work, and who tries it. A number says how many scripted agents of that",
        "world play it: all earn nothing, or are flagged, and `tests/envs/test_release_gate.py` holds every world to it. A",
        "dash says that none does; the sections say why. `phronesis env check NAME` plays them.",
        "",
        f"| | cheat | {' | '.join(worlds)} |",
        "|---|---|" + "---|" * len(worlds),
    ]
    for n, text in source.cheats.items():
        cells = [str(len(told)) if isinstance(told := source.worlds[w][n], list) else "–" for w in worlds]
        head.append(f"| {n} | {text} | {' | '.join(cells)} |")
    parts: list[str] = []
    for world, lines in source.worlds.items():
        parts += ["", f"## {world}", "", "| | cheat | played by, or why not |", "|---|---|---|"]
        for n, text in source.cheats.items():
            told = lines[n]
            shown = ", ".join(f"*{name}*" for name in told) if isinstance(told, list) else source.reasons.get(told, told)
            parts.append(f"| {n} | {text} | {shown} |")
        if source.own[world]:
            parts.append(f"| | of its own kind | {', '.join(f'*{name}*' for name in source.own[world])} |")
    rest = ["", "## Worlds without cheats of their own", ""]
    rest += [f"* `{world}`: {why}" for world, why in source.without.items()]
    return "\n".join([*head, *parts, *rest]) + "\n"


def problems(source: Source) -> list[str]:
    """What is wrong with the file, looking at every world that can be made here."""
    found: list[str] = []
    if list(source.cheats) != list(range(1, COUNT + 1)):
        found.append(f"the cheats are not numbered from 1 to {COUNT}")
    for name in dict.fromkeys(listing.name for listing in registry.BUILT_IN):
        if name not in source.worlds and name not in source.without:
            found.append(f"{name} is neither among the worlds nor among those without cheats")
            continue
        try:
            cheats = registry.get(name).cheats
        except PhronesisError as error:
            print(f"{name} cannot be made here: {error}", file=sys.stderr)
            continue
        if name in source.worlds:
            found += wrong(source, name, cheats)
        elif cheats:
            found.append(f"{name} names cheats and stands among those without")
    known = {listing.name for listing in registry.BUILT_IN}
    return found + [f"there is no world {name!r}" for name in (*source.worlds, *source.without) if name not in known]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the page is out of date")
    check = parser.parse_args().check
    source = read()
    found = problems(source)
    for line in found:
        print(line)
    if found:
        return 1
    if check:
        return 0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page(source) else 1
    PAGE.write_text(page(source), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
