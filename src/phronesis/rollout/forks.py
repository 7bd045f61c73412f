"""Attempts that share a beginning, recorded as one episode that forks; and back.

Every attempt is played and judged as an episode of its own, with its own world, limits and reward. Joined, the turns they
share are stored once, so that a batch computes and trains them once.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from phronesis.errors import TrainingError
from phronesis.records import Component, Episode, Reward, Stop, Turn


def own_turns(episode: Episode, base: Episode) -> int:
    """How many of an attempt's turns are not those of `base`, which it was played on from.

    >>> # played on from before the last of three turns and two turns long after that: 2
    """
    shared = 0
    for a, b in zip(episode.turns, base.turns, strict=False):
        if a is not b:
            break
        shared += 1
    return len(episode.turns) - shared


def join(attempts: Sequence[Episode]) -> Episode:
    """One episode of attempts that share turns; the first one gives it its name, seed and times.

    A turn is shared where attempts hold the same record of it (`PlayOn` hands records on). Each attempt's reward becomes
    components with `Component.branch` set to its last turn, so that the episode's value is the mean over the branches.

    Args:
        attempts: chains of turns, scored and without fault, each with a last turn of its own; at least one.

    Raises:
        TrainingError: an attempt ends at a turn that another one holds too, so that no branch would be its own.

    Attempts of turns (a, b) and (a, c) worth 1 and 0 give turns (a, b, c), b and c following a, and value .5.
    """
    first = attempts[0]
    if len(attempts) == 1:
        return first
    turns: list[Turn] = []
    at: dict[int, int] = {}
    components: list[Component] = []
    ends: dict[int, Stop] = {}
    for attempt in attempts:
        where: list[int] = []
        for k, turn in enumerate(attempt.turns):
            if id(turn) not in at:
                parent = None if turn.parent is None else where[turn.parent]
                at[id(turn)] = len(turns)
                turns.append(replace(turn, parent=parent, follows=where[k - 1] if k else -1))
            where.append(at[id(turn)])
        if not where or where[-1] in ends:
            raise _endless(attempt)
        ends[where[-1]] = attempt.stop
        for part in () if attempt.reward is None else attempt.reward.components:
            turn_at = None if part.turn is None else where[part.turn]
            components.append(replace(part, turn=turn_at, branch=where[-1]))
    passed = {turn.follows for turn in turns}
    for attempt in attempts:
        if at[id(attempt.turns[-1])] in passed:
            raise _endless(attempt)
    stops = tuple(ends[k] for k in sorted(ends))
    alike = len(set(stops)) == 1
    return replace(
        first,
        turns=tuple(turns),
        reward=Reward(components=tuple(components)),
        stop=Stop.completed if Stop.completed in stops else first.stop,
        stops=() if alike else stops,
        seconds=max(a.seconds for a in attempts),
    )


def _endless(attempt: Episode) -> TrainingError:
    return TrainingError(
        f"attempt {attempt.id!r} ({attempt.stop.value}) has no last turn of its own, so it is no branch of an episode; "
        "leave out attempts for which own_turns is 0"
    )


def split(episode: Episode) -> tuple[Episode, ...]:
    """The attempts an episode was joined from, in the order of their ends; the episode itself where none was joined.

    Their ends are those that its reward names (`Reward.branches`).
    """
    judged = () if episode.reward is None else episode.reward.branches
    if not judged or episode.reward is None:
        return (episode,)
    found: list[Episode] = []
    stops = dict(zip(judged, episode.stops, strict=True)) if episode.stops else {}
    for n, end in enumerate(judged):
        line = episode.line(end)
        places = {k: i for i, k in enumerate(line)}
        turns = tuple(
            replace(
                episode.turns[k],
                parent=None if (parent := episode.turns[k].parent) is None else places[parent],
                follows=i - 1,
            )
            for i, k in enumerate(line)
        )
        parts = tuple(
            replace(c, branch=None, turn=None if c.turn is None else places[c.turn])
            for c in episode.reward.components
            if c.branch == end
        )
        found.append(
            replace(
                episode,
                id=f"{episode.id}/{n}",
                turns=turns,
                reward=Reward(components=parts),
                stop=stops.get(end, episode.stop),
                stops=(),
            )
        )
    return tuple(found)
