"""How old what is learned from is: updates between the weights that sampled a token and those that learn from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from phronesis.records import EpisodeGroup

BINS = (
    ("age/share_0", 0, 0),
    ("age/share_1", 1, 1),
    ("age/share_2_3", 2, 3),
    ("age/share_4_7", 4, 7),
    ("age/share_8_up", 8, None),
)
"""Metric key, first and last age of every bin of the distribution."""


def age_metrics(groups: Sequence[EpisodeGroup], version: int) -> dict[str, float]:
    """The distribution of ages over sampled tokens, under metric keys; empty where nothing was sampled.

    A turn's tokens count with the oldest weights that sampled any of them: 10 tokens sampled at version 3 and 30 at 4,
    learned from at version 4, have mean age 0.25 and a quarter of them is one update old.

    Args:
        groups: of a batch.
        version: of the weights at the start of the update.
    """
    tokens, crossed, turns = Counter[int](), 0, 0
    for turn in (t for g in groups for e in g.episodes for t in e.turns):
        tokens[version - turn.version[0]] += sum(turn.sampled)
        crossed += turn.version[0] != turn.version[1]
        turns += 1
    total = tokens.total()
    if not total:
        return {}
    found = {
        "age/mean": sum(age * n for age, n in tokens.items()) / total,
        "age/max": float(max(age for age, n in tokens.items() if n)),
        "age/crossed": crossed / turns,
    }
    for key, low, high in BINS:
        found[key] = sum(n for age, n in tokens.items() if age >= low and (high is None or age <= high)) / total
    return found
