"""Writes docs/worlds.md from the code: `python scripts/worlds.py [--check] [--measure] [NAME ...]`.

Every world that comes with the package becomes a line: its tasks and turns, what the checker's oracle, random and silent agents
earn, how fast it is, and whether its planted weakness is seen by the audit. The scores are those of fixed tasks and seeds, so
they are equal on every machine. Speeds are not: what the page says of them is kept until ``--measure``, and ``--check``, which
writes nothing and exits with 1 when the page is out of date, does not look at them. With names, only those lines are made anew.
A world that cannot be played here, because something optional is missing, keeps its line.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phronesis.config.importing import import_path
from phronesis.env import EnvSpec, Expert
from phronesis.envs import registry
from phronesis.envs.check_inspection import Inspection
from phronesis.envs.scripted import Clock, Played, expert, recorded, reward_of, silent, uniform
from phronesis.errors import PhronesisError
from phronesis.seeding import rng

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "worlds.md"
ORACLE, RANDOM = 20, 100
"""Episodes of the oracle and of the random agent."""
SLOW = {"coderepair": 10, "miniweb": 4, "miniwob": 10, "terminal": 10}
"""Worlds whose episodes start processes play a part of that: one episode in so many."""
FEW = 3
"""Episodes of the silent agent, and of the one that uses a planted weakness."""
SECONDS = 0.4
"""Time spent on measuring each speed."""
COLUMNS = ("world", "tasks", "turns", "oracle", "random", "null", "planted weakness", "audit", "resets/s", "steps/s")
TIMED = 2
"""Columns at the end that depend on the machine."""
UNKNOWN = "–"


class World(NamedTuple):
    """What the page says of one world."""

    line: tuple[str, ...]
    """Cells, in the order of `COLUMNS`, without those that depend on the machine."""
    text: str
    """Its section."""


# ---------------------------------------------------------------------------------------------- playing


async def _mean(at: Inspection, agent: str, count: int) -> tuple[float, float]:
    """Mean reward and mean turns of an agent over the first tasks."""
    rewards, turns = list[float](), list[int]()
    for i in range(count):
        speaker = {"oracle": expert, "null": silent}.get(agent, lambda i=i: uniform(rng(0, "worlds", i)))()
        played = await at.play(i, speaker)
        rewards.append((await reward_of(at.spec, played.episode)).value or 0.0)
        turns.append(len(played.actions))
    return sum(rewards) / count, sum(turns) / count


def _inspection(spec: EnvSpec) -> Inspection:
    return Inspection(spec, split="train", seed=0, clock=Clock(120.0))


async def _line(spec: EnvSpec, planted: EnvSpec | None) -> tuple[str, ...]:
    at, part = _inspection(spec), SLOW.get(spec.name, 1)
    env = spec.make()
    able = isinstance(env, Expert)
    await env.close()
    oracle, turns = await _mean(at, "oracle", ORACLE // part) if able else (0.0, 0.0)
    chance, _ = await _mean(at, "random", RANDOM // part)
    null, _ = await _mean(at, "null", FEW)
    most = "" if spec.chance_reward is None else f" (≤ {spec.chance_reward:.2f})"
    return (
        f"`{spec.name}`",
        ", ".join("unlimited" if size is None else f"{size} {split}" for split, size in spec.sizes.items())
        if any(spec.sizes.values())
        else "unlimited",
        f"{turns:.1f} of {spec.max_turns}" if able else f"{UNKNOWN} of {spec.max_turns}",
        f"{oracle:.2f}" if able else UNKNOWN,
        f"{chance:.2f}{most}",
        f"{null:.2f}",
        "yes" if planted else "no",
        await _audit(planted) if planted else UNKNOWN,
    )


async def _audit(planted: EnvSpec) -> str:
    """Whether the audit component sees that the planted weakness was used."""
    assert planted.hack is not None
    paid = seen = 0
    for i in range(FEW):
        reward = await reward_of(planted, (await _inspection(planted).play(i, planted.hack())).episode)
        paid += (reward.value or 0.0) > 0
        true = reward.component("true")
        seen += true is not None and true.audit and true.score == 0.0
    return f"{'sees it' if seen == FEW else 'MISSES IT'}: paid {paid} of {FEW}, true 0 in {seen}"


def with_weakness(name: str) -> EnvSpec | None:
    """The world with its weakness planted; None when it has none."""
    spec = registry.get(name)
    if spec.hack is not None:
        return spec
    if "loophole" not in dials(name):
        return None
    planted = registry.get(name, {"loophole": True})
    return planted if planted.hack is not None else None


def dials(name: str) -> dict[str, str]:
    """The arguments of a world and their defaults."""
    path = next(listing.path for listing in registry.names() if listing.name == name)
    made = import_path(path)
    return {n: repr(p.default) for n, p in inspect.signature(made).parameters.items()} if callable(made) else {}


def world(name: str) -> World:
    """Plays a world.

    Raises:
        PhronesisError: it cannot be played here.
    """
    spec, planted = registry.get(name), with_weakness(name)
    listing = next(listing for listing in registry.names() if listing.name == name)
    line = asyncio.run(_line(spec, planted))
    text = [f"## {name}", "", spec.description or f"{listing.description}.", ""]
    if arguments := dials(name):
        text.append(f"* Dials: {', '.join(f'`{n}={v}`' for n, v in arguments.items())}")
    if spec.secrets:
        text.append(f"* Hidden: {', '.join(f'`{s}`' for s in spec.secrets)}")
    if spec.cheats:
        text.append(f"* Cheats that earn nothing: {', '.join(spec.cheats)}")
    if planted:
        how = "" if spec.hack is not None else " (with `loophole=True`)"
        text.append(f"* Planted weakness{how}: {planted.exploit}")
    return World(line, "\n".join(text).rstrip() + "\n")


# ---------------------------------------------------------------------------------------------- speed


def speeds(name: str) -> tuple[str, str]:
    """Resets and steps per second, on one core, to two digits."""
    return asyncio.run(_speeds(registry.get(name)))


async def _speeds(spec: EnvSpec) -> tuple[str, str]:
    at = _inspection(spec)
    resets, spent = 0, 0.0
    while spent < SECONDS:
        task = at.task(resets)
        env = spec.make()
        began = time.perf_counter()
        await env.reset(task, resets)
        spent += time.perf_counter() - began
        await env.close()
        resets += 1
    steps, stepping = 0, 0.0
    for i in range(1000):
        played = await at.play(i, uniform(rng(0, "speed", i)))
        count, seconds = await _replay(spec, at, i, played)
        steps, stepping = steps + count, stepping + seconds
        if stepping > SECONDS / 2:
            break
    return rounded(resets / spent), rounded(steps / stepping)


async def _replay(spec: EnvSpec, at: Inspection, index: int, played: Played) -> tuple[int, float]:
    """The same steps again, timed without the agent that chose them."""
    env = spec.make()
    await env.reset(at.task(index), played.episode.seed)
    say = recorded(played.actions)
    began = time.perf_counter()
    for _ in played.actions:
        await env.step(await say(env, ()))
    seconds = time.perf_counter() - began
    await env.close()
    return len(played.actions), seconds


def rounded(value: float) -> str:
    """Two digits that count, as people write them.

    >>> rounded(12345.6), rounded(0.0234), rounded(7.0)
    ('12,000', '0.023', '7')
    """
    return f"{float(f'{value:.2g}'):,.10g}"


# ---------------------------------------------------------------------------------------------- the page


def read(page: str) -> dict[str, tuple[tuple[str, ...], str]]:
    """Lines and sections of a page by the name of the world."""
    lines = {m[1]: tuple(c.strip() for c in m[0].strip("|").split("|")) for m in re.finditer(r"^\| `([^`]+)` .*$", page, re.M)}
    texts = {part.split("\n")[0]: f"## {part.rstrip()}\n" for part in page.split("\n## ")[1:]}
    return {name: (line, texts.get(name, "")) for name, line in lines.items()}


def write(found: dict[str, tuple[tuple[str, ...], str]]) -> str:
    """The page."""
    head = [
        "# Worlds",
        "",
        "Written by `python scripts/worlds.py` from the code, by playing: change that, not this page. Turns are those the",
        "oracle takes, of those an episode may take. Scores are means over the first tasks of `train`:",
        f"{ORACLE} episodes of the oracle, {RANDOM} of the random agent (in brackets the mean it is promised to stay below),",
        f"{FEW} of the silent one; fewer where an episode starts processes. A planted weakness is off unless a dial asks for",
        "it; the audit is the component `true` of the reward, which is never paid. Speeds are of one core of a busy machine;",
        "`python scripts/worlds.py --measure` makes them anew. Any world is held to its promises by",
        "`phronesis env check NAME`, and all of them by the release gate in `tests/envs/test_release_gate.py`.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    names = [listing.name for listing in registry.BUILT_IN if listing.name in found]
    lines = ["| " + " | ".join(found[name][0]) + " |" for name in names]
    return "\n".join([*head, *lines, "", *(found[name][1] for name in names)]).rstrip() + "\n"


def stale(name: str, page: str) -> str | None:
    """What is out of date about a world on the page, apart from speeds; None when nothing is.

    Raises:
        PhronesisError: the world cannot be played here.
    """
    made, known = world(name), read(page).get(name)
    if known is None:
        return f"{name} is missing from the page"
    if known[0][:-TIMED] != made.line:
        return f"{name}: the page says {known[0][:-TIMED]}, the code {made.line}"
    return None if known[1] == made.text else f"{name}: its section differs"


def update(names: Sequence[str], measure: bool) -> None:
    """Rewrites the page."""
    found = read(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    for name in names:
        try:
            made = world(name)
            known = found.get(name)
            timed = speeds(name) if measure or known is None else known[0][-TIMED:]
        except PhronesisError as error:
            print(f"{name} cannot be played here: {error}")
            continue
        found[name] = ((*made.line, *timed), made.text)
    PAGE.write_text(write(found), encoding="utf-8")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these worlds; all that come with the package by default")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when the page is out of date")
    parser.add_argument("--measure", action="store_true", help="measure speeds anew, too")
    given = parser.parse_args()
    names = given.names or [listing.name for listing in registry.BUILT_IN]
    if not given.check:
        update(names, given.measure)
        return 0
    page, late = PAGE.read_text(encoding="utf-8"), False
    for name in names:
        try:
            text = stale(name, page)
        except PhronesisError as error:
            text = None
            print(f"{name} cannot be played here: {error}")
        if text is not None:
            print(text)
            late = True
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
