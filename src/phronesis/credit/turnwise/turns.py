"""Turn credit: what a turn led to, against what was to be expected there.

Turns are ordered by time (`Episode.before`), not by `Turn.parent`: a history rewrite starts a new root that continues the turn
before it, while a fork starts a sibling.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupMean, compares, gives_up
from phronesis.credit.rule import Rerun, members, spread
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup

Pool = Literal["turn", "state", "group"]
"""Which turns are compared: those at the same depth, those that acted in the same state, all of the group. A turn that is alone
there gets no credit, and is counted; see `pooled_credit`."""

INITIAL_STATE = "initial"
"""State in which the first turn of every episode of a group acts."""


class Place(NamedTuple):
    """A turn of a group."""

    episode: int
    """Index into `EpisodeGroup.episodes`."""
    turn: int
    """Index into `Episode.turns`."""


def depths(before: tuple[int | None, ...]) -> tuple[int, ...]:
    """How many turns precede each turn on its way from the reset.

    >>> depths((None, 0, 0, 2))
    (0, 1, 1, 2)
    """
    found: list[int] = []
    for at in before:
        found.append(0 if at is None else found[at] + 1)
    return tuple(found)


def states(episode: Episode) -> tuple[str | None, ...]:
    """Per turn, the key of the state it acted in; None where the environment reported none."""
    keys: list[str | None] = []
    for at in episode.before:
        reply = None if at is None else episode.turns[at].reply
        keys.append(INITIAL_STATE if at is None else (None if reply is None or reply.state_key is None else reply.state_key))
    return tuple(keys)


def discounted_returns(episode: Episode, gamma: float) -> tuple[float, ...]:
    """Per turn, its reward plus `gamma` times what followed; where the episode forks, the mean of the branches follows.

    Turn rewards (0, 0, 1) and gamma .95: (.9025, .95, 1).   Formula [reinforce-rtg], by turns.
    """
    return tree_returns(episode.earned, episode.before, gamma)


def trajectory_lengths(episode: Episode) -> tuple[float, ...]:
    """Per turn, the sampled tokens of the trajectory it belongs to; where several share it, their mean (ours).

    Turns of 2 tokens, the second and the third both following the first: 4 each, not 6.
    """
    lengths: list[list[int]] = [[] for _ in episode.turns]
    for end in episode.ends:
        line = episode.line(end)
        length = sum(sum(episode.turns[k].sampled) for k in line)
        for k in line:
            lengths[k].append(length)
    return tuple(sum(row) / len(row) for row in lengths)


def chain(turns: int) -> tuple[int | None, ...]:
    """What precedes each of `turns` turns that follow one another.

    >>> chain(3)
    (None, 0, 1)
    """
    return tuple(k - 1 if k else None for k in range(turns))


def is_chain(episode: Episode) -> bool:
    """Whether each turn follows the one before it; a rewritten history does, a fork does not."""
    return episode.before == chain(len(episode.turns))


def following(episode: Episode) -> tuple[int | None, ...]:
    """Per turn, the first turn that follows it; None at the end of a branch."""
    found: list[int | None] = [None] * len(episode.turns)
    for k, at in enumerate(episode.before):
        if at is not None and found[at] is None:
            found[at] = k
    return tuple(found)


def successors(before: Sequence[int | None]) -> list[list[int]]:
    """Per step, those that follow it, from what each follows.

    >>> successors([None, 0, 0])
    [[1, 2], [], []]
    """
    found: list[list[int]] = [[] for _ in before]
    for k, at in enumerate(before):
        if at is not None:
            found[at].append(k)
    return found


def tree_returns(rewards: Sequence[float], before: Sequence[int | None], gamma: float) -> tuple[float, ...]:
    """Per step, its reward plus `gamma` times the mean of what its successors return.

    >>> tree_returns([0.0, 1.0, 3.0], [None, 0, 0], 0.5)
    (1.0, 1.0, 3.0)

    Args:
        rewards: one per step.
        before: per step, the index of the one it follows; None at a start. Steps come after what they follow.
        gamma: discount per step, in [0, 1].
    """
    after = successors(before)
    returns = list(rewards)
    for k in reversed(range(len(returns))):
        if after[k]:
            returns[k] += gamma * sum(returns[j] for j in after[k]) / len(after[k])
    return tuple(returns)


def pooled_advantages(
    returns: Mapping[int, Sequence[float]], keys: Mapping[int, Sequence[Hashable]], baseline: AnyBaseline
) -> dict[int, list[float]]:
    """Each return against those with the same key, over all rows.

    Args:
        returns: rows of numbers, by episode.
        keys: rows of the same lengths; a None is alone in a pool of its own.
        baseline: what a return is compared with. One with nobody to compare with gets 0 (with `NoBaseline` its own value).

    Rows (1, 0) and (0,) with keys (a, b) and (a,), group mean: (.5, 0) and (-.5,).
    """
    found = {e: [0.0] * len(row) for e, row in returns.items()}
    for places in _pools(returns, keys).values():
        compared = [returns[p.episode][p.turn] for p in places]
        for place, advantage in zip(places, baseline.advantages(compared, "zero"), strict=True):
            found[place.episode][place.turn] = advantage
    return found


def _pools(returns: Mapping[int, Sequence[float]], keys: Mapping[int, Sequence[Hashable]]) -> dict[Hashable, list[Place]]:
    """The turns of each pool; one without a name (None) is alone in a pool of its own."""
    pools: dict[Hashable, list[Place]] = defaultdict(list)
    for e, row in returns.items():
        for k in range(len(row)):
            place = Place(e, k)
            pools[place if keys[e][k] is None else keys[e][k]].append(place)
    return pools


def pooled_credit(
    group: EpisodeGroup, returns: Mapping[int, Sequence[float]], pool: Pool, baseline: AnyBaseline, *, weight: float = 1.0
) -> Credit:
    """A group's credit from one return per turn: each against those of its pool, times `weight`.

    A turn with nobody to compare with gets 0, also one deeper than any sibling's, and is counted as ``lone_turns``. It could be
    held against siblings that ended before and earn nothing any more; but then an episode would gain from having been long, in
    a group where all earned the same. With `NoBaseline` it gets its return.

    Args:
        group: the group.
        returns: per kept episode (its index), one number per turn.
        pool: which turns are compared.
        baseline: what a return is compared with.
        weight: factor on the credit.

    Raises:
        ConfigError: pool ``state``, and the environment reports no state at all.
    """
    if pool == "state":
        need_states(group, tuple(returns))
    keys = {e: pool_keys(group.episodes[e], pool) for e in returns}
    found = pooled_advantages(returns, keys, baseline)
    pools = [[returns[p.episode][p.turn] for p in places] for places in _pools(returns, keys).values()]
    counts = {
        "lone_turns": sum(len(row) == 1 for row in pools) if compares(baseline) else 0,
        "mean_not_positive": sum(gives_up(baseline, row) for row in pools),
    }
    by_turn = {e: [weight * a for a in row] for e, row in found.items()}
    return spread(group, by_turn, zero_variance=not any(a for row in by_turn.values() for a in row), counts=counts)


def pool_keys(episode: Episode, pool: Pool) -> tuple[Hashable, ...]:
    """Per turn, the name of the pool it is compared in; None where it has none."""
    if pool == "turn":
        return depths(episode.before)
    return states(episode) if pool == "state" else ("all",) * len(episode.turns)


def need_states(group: EpisodeGroup, kept: tuple[int, ...]) -> None:
    """Raises ConfigError when the environment reports no state at all in the kept episodes."""
    replies = [t.reply for e in kept for t in group.episodes[e].turns if t.reply is not None]
    if replies and all(r.state_key is None for r in replies):
        raise ConfigError(
            f"environment {group.task.env!r} reports no Reply.state_key, which credit by state needs; "
            "report one, or compare turns by 'turn' or 'group'"
        )


class TurnReturnCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="turn_return"):
    """Every sampled token of a turn gets the turn's discounted return minus a baseline, times a weight.

    Two episodes with turn rewards (0, 1) and (0, 0), gamma .5, compared by turn with the group mean:
    returns (.5, 1) and (0, 0), credit (.25, .5) and (-.25, -.5).
    """

    gamma: float = 0.95
    """Discount per turn, in [0, 1]."""
    pool: Pool = "turn"
    """Which turns are compared with one another."""
    baseline: AnyBaseline = GroupMean()
    """What a turn's return is compared with."""
    weight: float = 1.0
    """Factor on the credit, above 0."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        if self.weight <= 0:
            raise ConfigError(f"turn_return weight {self.weight!r} must be above 0")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        kept = members(group, compared=compares(self.baseline)).kept
        returns = {e: discounted_returns(group.episodes[e], self.gamma) for e in kept}
        return pooled_credit(group, returns, self.pool, self.baseline, weight=self.weight)


def check_gamma(gamma: float) -> None:
    """Raises ConfigError unless `gamma` lies in [0, 1]."""
    if not 0.0 <= gamma <= 1.0:
        raise ConfigError(f"gamma {gamma!r} must lie in [0, 1]")
