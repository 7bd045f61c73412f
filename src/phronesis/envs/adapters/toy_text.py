"""FrozenLake, Taxi and CliffWalking, with exact optimum and chance level.

Reward is success in [0, 1]: reaching the goal, or delivering the passenger, within the turns. How well it was done (Taxi's
and CliffWalking's step costs) is in the audit component ``raw_return``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from phronesis.env import EnvSpec
from phronesis.envs.adapters.gymnasium import RawWorld, TableEnv, World, prototype, solution
from phronesis.envs.digest import digest, split_of
from phronesis.envs.tasks import TaskTable, task_table
from phronesis.errors import ConfigError
from phronesis.records import Task
from phronesis.rewards import EnvReward
from phronesis.seeding import rng

SPLITS = ("train", "heldout")
SAMPLE = 20
"""Tasks of an unlimited split that its promised scores are computed from."""


class _Family(NamedTuple):
    """What the three makers hand to `_spec`."""

    name: str
    world: World
    table: TaskTable
    limit: int
    description: str


def frozenlake(
    map_name: Literal["4x4", "8x8"] = "4x4",
    *,
    rows: list[str] | None = None,
    random_size: int | None = None,
    frozen: float = 0.8,
    slippery: bool = False,
    success_rate: float = 1 / 3,
    max_turns: int | None = None,
) -> EnvSpec:
    """Cross a frozen lake to the goal without falling into a hole.

    Args:
        map_name: one of Gymnasium's maps; used when neither of the next two is given.
        rows: a map of one's own, e.g. ``["SFF", "FHF", "FFG"]``: S start, F frozen, H hole, G goal.
        random_size: draw a new map of this many rows and columns for every task, in [2, 16]; train and held-out maps differ.
        frozen: share of frozen tiles in drawn maps, in (0, 1].
        slippery: moves go sideways at times; then no agent always succeeds, and the promised oracle score says how often.
        success_rate: chance that a slippery move goes where intended, in (0, 1].
        max_turns: by default as many as there are tiles, on slippery ice 100 (up to 16 tiles) or 200, as in Gymnasium.

    Raises:
        ConfigError: values out of range, or a map without a way from S to G.
    """
    if random_size is not None and not 2 <= random_size <= 16:
        raise ConfigError(f"frozenlake needs random_size in [2, 16], got {random_size!r}")
    if not 0 < frozen <= 1 or not 0 < success_rate <= 1:
        raise ConfigError(f"frozenlake needs frozen and success_rate in (0, 1], got {frozen!r} and {success_rate!r}")
    chosen = _check_map(rows) if rows is not None else list(_MAPS[map_name])
    size = len(chosen) * len(chosen[0]) if random_size is None else random_size**2
    limit = max_turns or ((100 if size <= 16 else 200) if slippery else size)
    ice = {"is_slippery": slippery} | ({"success_rate": success_rate} if slippery else {})

    def drawn(split: str, index: int) -> Task:
        lake, key = _draw_map(split, index, random_size or 4, frozen)
        payload = {"options": {"desc": lake, **ice}}
        return Task(id=f"{split}-{index}", env="frozenlake", payload=payload, split=split, content_key=key)

    return _spec(
        _Family(
            name="frozenlake",
            world=_LAKE,
            table=TaskTable(drawn, dict.fromkeys(SPLITS)) if random_size else _one("frozenlake", {"desc": chosen, **ice}),
            limit=limit,
            description="Cross a frozen lake to the goal without falling into a hole.",
        )
    )


def taxi(rainy: bool = False, max_turns: int = 40) -> EnvSpec:
    """Fetch a passenger and bring it where it wants to go; 300 starts, a fifth of them held out.

    Args:
        rainy: moves go sideways at times.
        max_turns: the longest best route has 18 steps.
    """
    options = {"is_rainy": rainy}
    raw = prototype(_TAXI, options)
    starts = [int(s) for s in np.flatnonzero(cast("Any", raw).initial_state_distrib)]
    tasks: dict[str, list[Task]] = {split: [] for split in SPLITS}
    for start in starts:
        key = digest(["taxi", start])
        found = tasks[split_of(key)]
        payload = {"options": options, "start": start}
        name = f"{split_of(key)}-{len(found)}"
        found.append(Task(id=name, env="taxi", payload=payload, split=split_of(key), content_key=key))
    return _spec(
        _Family(
            name="taxi",
            world=_TAXI,
            table=task_table("taxi", tasks),
            limit=max_turns,
            description="Fetch a passenger and bring it where it wants to go.",
        )
    )


def cliffwalking(slippery: bool = False, max_turns: int | None = None) -> EnvSpec:
    """Walk along a cliff to the goal; one task.

    Args:
        slippery: moves go sideways at times.
        max_turns: by default 30, on slippery ground 200; the shortest way has 13 steps.
    """
    return _spec(
        _Family(
            name="cliffwalking",
            world=_CLIFF,
            table=_one("cliffwalking", {"is_slippery": slippery}),
            limit=max_turns or (200 if slippery else 30),
            description="Walk along a cliff to the goal without falling.",
        )
    )


def _spec(family: _Family) -> EnvSpec:
    """Fills in the exact optimum and chance level, over all or the first `SAMPLE` training tasks."""
    if family.limit < 1:
        raise ConfigError(f"{family.name} needs max_turns of at least 1, got {family.limit!r}")
    task, sizes = family.table
    count = min(sizes["train"] or SAMPLE, SAMPLE)
    best, chance = list[float](), list[float]()
    for index in range(count):
        payload = task("train", index).payload
        solved = solution(family.world, payload["options"], family.limit)
        weights = _starts(family.world, payload)
        best.append(float(weights @ solved.best))
        chance.append(float(weights @ solved.random))
    return EnvSpec(
        name=family.name,
        make=partial(TableEnv, family.world, limit=family.limit),
        task=task,
        sizes=sizes,
        rubric=EnvReward(audit_metrics=("raw_return",)),
        description=family.description,
        oracle_reward=sum(best) / count,
        null_reward=0.0,
        chance_reward=sum(chance) / count,
        max_turns=family.limit,
        oracle_tasks=count if count > 1 else SAMPLE,
    )


def _one(name: str, options: dict[str, Any]) -> TaskTable:
    """A closed world of one task, the same in every split."""
    return task_table(name, {s: [Task(id=f"{s}-0", env=name, payload={"options": options}, split=s)] for s in SPLITS})


def _starts(world: World, payload: Mapping[str, Any]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Probability of each state at the start of a task."""
    weights = np.array(cast("Any", prototype(world, payload["options"])).initial_state_distrib, dtype=np.float64)
    if "start" in payload:
        weights[:] = 0.0
        weights[payload["start"]] = 1.0
    return weights


_MAPS: dict[str, tuple[str, ...]] = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": ("SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG"),
}


def _check_map(rows: list[str]) -> list[str]:
    text = "".join(rows)
    if not rows or len({len(row) for row in rows}) != 1 or not text or set(text) - set("SFHG"):
        raise ConfigError(f"a lake map is rows of equal length made of S, F, H, G, got {rows!r}")
    if "S" not in text or not all(_reaches(rows, i) for i, tile in enumerate(text) if tile == "S"):
        raise ConfigError(f"the lake map has no way from S to G: {rows!r}")
    return rows


def _reaches(rows: list[str], start: int) -> bool:
    width, todo, seen = len(rows[0]), [start], {start}
    while todo:
        row, column = divmod(todo.pop(), width)
        if rows[row][column] == "G":
            return True
        for r, c in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            at = r * width + c
            if 0 <= r < len(rows) and 0 <= c < width and rows[r][c] != "H" and at not in seen:
                seen.add(at)
                todo.append(at)
    return False


def _draw_map(split: str, index: int, size: int, frozen: float) -> tuple[list[str], str]:
    """A solvable map whose content puts it into this split, and its content key."""
    for attempt in range(10_000):
        source = rng(0, "frozenlake", size, split, index, attempt)
        tiles = ["F" if source.random() < frozen else "H" for _ in range(size * size)]
        tiles[0], tiles[-1] = "S", "G"
        lake = ["".join(tiles[r * size : (r + 1) * size]) for r in range(size)]
        key = digest(lake)
        if split_of(key) == ("heldout" if split == "heldout" else "train") and _reaches(lake, 0):
            return lake, key
    raise ConfigError(f"found no {size}x{size} lake with a way to the goal at frozen={frozen!r}; raise it")


def _grid(rows: list[str], at: int) -> str:
    width = len(rows[0])
    row, column = divmod(at, width)
    return "\n".join(line[:column] + "@" + line[column + 1 :] if r == row else line for r, line in enumerate(rows))


def _text_rows(desc: object) -> list[str]:
    return ["".join(cell.decode() for cell in row) for row in cast("Any", desc).tolist()]


def _reached(reward: float, terminated: bool) -> float:
    return 1.0 if terminated and reward > 0 else 0.0


def _ended(reward: float, terminated: bool) -> float:
    return 1.0 if terminated else 0.0


def _lake_rules(raw: RawWorld) -> str:
    slips = any(len(outcomes) > 1 for outcomes in cast("Any", raw).P[0].values())
    return "You are @ on a frozen lake. F is ice, H is a hole, G is the goal, S the start. Reach G; a hole ends the game." + (
        " The ice is slippery: a move may go sideways." if slips else ""
    )


_LAKE = World(
    ids=("FrozenLake-v1",),
    tool=("move", "direction", "Moves one tile."),
    actions=("left", "down", "right", "up"),
    rules=_lake_rules,
    describe=lambda raw, at: _grid(_text_rows(cast("Any", raw).desc), cast("int", at)),
    earned=_reached,
    ending=lambda raw, reward: "You reached the goal." if reward > 0 else "You fell into a hole.",
)

_PLACES = ("R", "G", "Y", "B")


def _taxi_rules(raw: RawWorld) -> str:
    grid = "\n".join(_text_rows(cast("Any", raw).desc))
    return (
        "Drive the taxi: pick up the passenger and drop it at its destination. Nothing passes a wall |.\n"
        f"{grid}\nR is row 0 column 0, G row 0 column 4, Y row 4 column 0, B row 4 column 3."
    )


def _taxi_seen(raw: RawWorld, at: object) -> str:
    row, column, passenger, destination = cast("tuple[int, int, int, int]", cast("Any", raw).decode(at))
    where = "in the taxi" if passenger == 4 else f"at {_PLACES[passenger]}"
    return f"Taxi: row {row} column {column}. Passenger: {where}. Destination: {_PLACES[destination]}."


_TAXI = World(
    ids=("Taxi-v4", "Taxi-v3"),
    tool=("act", "action", "Drives one field, or picks up or drops off the passenger."),
    actions=("south", "north", "east", "west", "pickup", "dropoff"),
    rules=_taxi_rules,
    describe=_taxi_seen,
    earned=_reached,
    ending=lambda raw, reward: "The passenger has arrived.",
    state=("s", "lastaction", "fickle_step"),
)


def _cliff_seen(raw: RawWorld, at: object) -> str:
    return _grid(["." * 12, "." * 12, "." * 12, "S" + "C" * 10 + "G"], cast("int", at))


_CLIFF = World(
    ids=("CliffWalking-v1", "CliffWalking-v0"),
    tool=("move", "direction", "Moves one field."),
    actions=("up", "right", "down", "left"),
    rules=lambda raw: "You are @. Walk from S to G. C is a cliff: stepping there takes you back to S.",
    describe=_cliff_seen,
    earned=_ended,
    ending=lambda raw, reward: "You reached the goal.",
)
