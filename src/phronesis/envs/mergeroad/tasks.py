"""Traffic: who drives where, who will slow down, and a search that says that one can get in between.

A task is generated from (split, index) alone. Its content key hashes the traffic; the key decides the split, so no held-out
traffic can occur in training.
"""

from __future__ import annotations

import random
from typing import Any

from msgspec import Struct

from phronesis.envs.digest import digest, split_of
from phronesis.envs.game_env import levels
from phronesis.envs.mergeroad.plan import advise
from phronesis.envs.mergeroad.road import LENGTH, Road, Slowing
from phronesis.records import Task, say
from phronesis.seeding import rng

LEVELS = {1: (1.2, 3.0, 0), 2: (0.9, 2.4, 0), 3: (0.8, 2.0, 1), 4: (0.7, 1.8, 2)}
"""Least and greatest time headway in seconds, and drivers who slow down, by difficulty."""
RAMP = (260, 320)
"""Metres of the ramp."""
LIMIT = 150
"""Ticks until the merge has to be done."""


class Dials(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hard the tasks are."""

    min_difficulty: int = 1
    """Easiest level drawn: wide gaps, steady traffic."""
    max_difficulty: int = 3
    """Hardest level drawn, up to 4: narrow gaps, two drivers who slow down without a reason."""

    def validate(self) -> None:
        """Raises ConfigError for values out of range."""
        levels("mergeroad", self.min_difficulty, self.max_difficulty, max(LEVELS))


def traffic(source: random.Random, difficulty: int) -> dict[str, Any]:
    """The start of an episode, as JSON: places and speeds in metres and m/s, rounded to centimetres."""
    low, high, slowing = LEVELS[difficulty]
    pace = source.uniform(22.0, 27.0)
    x, v, wanted = [source.uniform(90.0, 140.0)], [pace], [round(pace * source.uniform(0.95, 1.1), 2)]
    while x[-1] > -330.0:
        speed = pace * source.uniform(0.97, 1.03)
        x.append(x[-1] - LENGTH - 2.0 - speed * source.uniform(low, high))
        v.append(speed)
        wanted.append(round(pace * source.uniform(1.0, 1.15), 2))
    drawn = [
        (source.randrange(1, 7), start := source.randrange(20, 90), start + source.randrange(15, 30), 0.6)
        for _ in range(slowing)
    ]
    return {
        "x": [round(p, 2) for p in x],
        "v": [round(s, 2) for s in v],
        "wanted": wanted,
        "slow": [list(one) for one in drawn],
        "end": float(source.randrange(*RAMP)),
        "speed": round(source.uniform(12.0, 17.0), 2),
    }


def road_of(payload: dict[str, Any]) -> Road:
    """The road at tick 0."""
    slow = tuple(Slowing(*one) for one in payload["slow"])
    road = Road(list(payload["x"]), list(payload["v"]), list(payload["wanted"]), slow, end=payload["end"])
    road.speed = payload["speed"]
    return road


def _at_once(payload: dict[str, Any]) -> bool:
    """Whether merging without looking goes well: no problem."""
    road = road_of(payload)
    road.step()
    road.merge()
    return road.settle()


def task(dials: Dials, split: str, index: int) -> Task:
    """The task of that split and index, the same on every machine."""
    source = rng(index, "mergeroad", split)
    difficulty = source.randint(dials.min_difficulty, dials.max_difficulty)
    wanted = "train" if split == "train" else "heldout"
    while True:
        found = traffic(source, difficulty)
        key = digest(["mergeroad", found])
        if split_of(key) == wanted and not _at_once(found) and advise(road_of(found), LIMIT, LIMIT):
            break
    text = (
        f"You are on the ramp of a motorway, {found['end']:.0f} m long, at {found['speed']:.1f} m/s. Get into the lane beside "
        f"you within {LIMIT // 10} s and before the ramp ends, without a collision in the 3 s after it. Time runs on."
    )
    return Task(
        id=f"mergeroad-{split}-{index}",
        env="mergeroad",
        messages=(say("user", text),),
        payload=found,
        split=split,
        difficulty=float(difficulty),
        content_key=key,
    )
