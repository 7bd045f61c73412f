"""Chooses the few episodes worth reading, the same ones every time.

Categories are filled together, not one after the other, so that an episode that would win two of them leaves the other
to the runner-up: an episode never appears twice, and a category stays empty only when nothing is left for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import product
from typing import Literal, NamedTuple

from phronesis.records import Episode

Category = Literal["best", "worst", "median", "most_changed", "failed"]
CATEGORIES: tuple[Category, ...] = ("best", "worst", "median", "most_changed", "failed")
"""In reading order."""


class Pick(NamedTuple):
    """One episode worth reading."""

    category: Category
    """Why it was chosen, in a word."""
    episode: Episode
    """The episode."""
    before: Episode | None
    """The same task and seed before training; None when it was not played then, or the episode is itself from before."""
    why: str
    """Why it was chosen, in a sentence."""


class Change(NamedTuple):
    """How much one task went differently."""

    reward: float
    """Reward after minus reward before; 0 when either is unscored."""
    behaviour: float
    """Share of the actions that differ, in [0, 1]."""


def pick(before: Sequence[Episode], after: Sequence[Episode], success: float = 1.0) -> tuple[Pick, ...]:
    """The best, worst, median, most changed and failed episode.

    Args:
        before: evaluation episodes before training; may be empty.
        after: evaluation episodes after training; when empty, the episodes before training are chosen from.
        success: an episode whose reward is at least this counts as a success.

    Returns:
        At most one pick per category, in the order of `CATEGORIES`, no episode twice.
    """
    pool = after or before
    twins = {_key(e): e for e in reversed(before)} if after else {}
    ranked = _rank(pool, twins, success)
    chosen = _assign({c: ranked[c][: len(CATEGORIES)] for c in CATEGORIES})
    return tuple(
        Pick(category, pool[i], twins.get(_key(pool[i])), _why(category, pool[i], twins.get(_key(pool[i]))))
        for category, i in chosen.items()
    )


def change(before: Episode, after: Episode) -> Change:
    """How differently the same task went.

    Behaviour compares the sequences of actions (tool calls with arguments, or what was said): one changed call of four
    in the same order counts 0.25.
    """
    old, new = value(before), value(after)
    actions = _actions(before), _actions(after)
    return Change(
        0.0 if old is None or new is None else new - old,
        1.0 - SequenceMatcher(None, actions[0], actions[1], autojunk=False).ratio(),
    )


def value(episode: Episode) -> float | None:
    """Reward of an episode; None when it was never scored."""
    return None if episode.reward is None else episode.reward.value


def _key(episode: Episode) -> tuple[str, str, str, int]:
    return episode.task.env, episode.task.split, episode.task.id, episode.seed


def _actions(episode: Episode) -> list[str]:
    actions: list[str] = []
    for turn in episode.turns:
        if turn.action is None:
            actions.append(f"unparsed {turn.parse_error}")
        elif turn.action.tool_calls:
            actions += [f"{c.name} {sorted(c.arguments.items())!r} {c.error}" for c in turn.action.tool_calls]
        else:
            actions.append(turn.action.text.strip())
    return actions


def _rank(
    pool: Sequence[Episode], twins: dict[tuple[str, str, str, int], Episode], success: float
) -> dict[Category, list[int]]:
    """Indices into `pool` by category, most telling first; ties go to the smaller id."""
    score: list[float | None] = [None if e.stop.is_fault else value(e) for e in pool]
    scored = [i for i in range(len(pool)) if score[i] is not None]
    tokens = [e.sampled_tokens for e in pool]
    hardness = [e.task.difficulty or 0.0 for e in pool]

    def number(i: int) -> float:
        return score[i] or 0.0

    def order(indices: Sequence[int], key: Callable[[int], tuple[float, ...]]) -> list[int]:
        return sorted(indices, key=lambda i: (key(i), pool[i].id, i))

    middle = order(scored, lambda i: (number(i), tokens[i]))
    centre = (len(middle) - 1) / 2
    changes = {i: change(twins[_key(e)], e) for i, e in enumerate(pool) if _key(e) in twins and score[i] is not None}
    changed = [i for i, c in changes.items() if c.reward != 0 or c.behaviour > 0]
    failed = [i for i, e in enumerate(pool) if e.stop.is_fault or e.stop.is_truncated or number(i) < success]
    return {
        "best": order(scored, lambda i: (-number(i), -hardness[i], tokens[i])),
        "worst": order(scored, lambda i: (number(i), hardness[i], -tokens[i])),
        "median": [middle[j] for j in sorted(range(len(middle)), key=lambda j: (abs(j - centre), j))],
        "most_changed": order(changed, lambda i: (-abs(changes[i].reward), -changes[i].behaviour, -hardness[i])),
        "failed": order(
            failed,
            lambda i: (-pool[i].stop.is_fault, -pool[i].stop.is_truncated, number(i), -len(pool[i].errors), hardness[i]),
        ),
    }


def _assign(candidates: dict[Category, list[int]]) -> dict[Category, int]:
    """One distinct candidate per category: as many categories as possible, then the best ranks, then the last category first,
    since failed and most changed have the fewest candidates.

    With five categories, five candidates each are enough for every category that has five; the search visits at most
    6^5 combinations.
    """
    choices = [[*range(len(candidates[c])), None] for c in CATEGORIES]
    best: tuple[tuple[int, int, tuple[int, ...]], dict[Category, int]] | None = None
    for ranks in product(*choices):
        filled: dict[Category, int] = {c: candidates[c][r] for c, r in zip(CATEGORIES, ranks, strict=True) if r is not None}
        if len(set(filled.values())) < len(filled):
            continue
        cost = (
            len(CATEGORIES) - len(filled),
            sum(r or 0 for r in ranks),
            tuple(len(CATEGORIES) if r is None else r for r in reversed(ranks)),
        )
        if best is None or cost < best[0]:
            best = cost, filled
    return {} if best is None else best[1]


def _why(category: Category, episode: Episode, twin: Episode | None) -> str:
    reward = value(episode)
    shown = "unscored" if reward is None else f"reward {reward:g}"
    if category == "best":
        return f"highest reward ({shown}), on the hardest task among equals, in the fewest tokens"
    if category == "worst":
        return f"lowest reward ({shown}), on the easiest task among equals"
    if category == "median":
        return f"in the middle of all episodes by reward, then length ({shown}, {episode.sampled_tokens} tokens)"
    if category == "most_changed" and twin is not None:
        moved = change(twin, episode)
        return f"reward moved by {moved.reward:+g} and {moved.behaviour:.0%} of the actions differ from before training"
    if episode.stop.is_fault:
        return f"a fault ended it ({episode.stop.value}); it says nothing about the policy"
    if episode.stop.is_truncated:
        return f"a limit ended it ({episode.stop.value})"
    return f"did not succeed ({shown})"
