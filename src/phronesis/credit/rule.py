"""The credit contract: a rule reads a finished, scored group and says how much each token is to be made more likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from phronesis.errors import TrainingError
from phronesis.records import Credit, Episode, EpisodeGroup


class Rerun(Protocol):
    """Plays on from a prefix; handed to rules by the loop, since credit lies below play."""

    async def __call__(self, episode: Episode, turn: int, n: int, *, greedy: bool = False, token: int = 0) -> tuple[float, ...]:
        """Rewards of `n` fresh continuations from just before turn `turn`, or from inside it.

        A reward is that of the whole episode, what the prefix earned included. Continuations share the episode's environment
        seed and differ in what the policy draws; asking again for the same turn gives other ones. One that faults is played
        again with other draws, and counts for nothing if it faults again: fewer than `n` rewards come back then, never none.

        Args:
            episode: finished and scored.
            turn: index into `Episode.turns`; ``len(turns)`` is the end, where there is nothing to play: the episode's own
                reward, n times.
            n: at least 1.
            token: how many tokens of that turn's completion are kept; the continuation is forced to begin with them.
            greedy: at temperature 0; n > 1 then repeats one number, up to ties in the environment.

        Raises:
            EnvFault: playing the prefix again gave another reply than recorded; names the turn.
            AllFaulted: no continuation came to an end.
        """
        ...


TokenValues = tuple[tuple[float, ...], ...]
"""Per turn, per token `[T]` of its completion; 0 at forced tokens, which have none."""


class Values(Protocol):
    """What a critic expects; handed to rules that ask for it by `NeedsValues`."""

    def __call__(self, episode: Episode) -> TokenValues:
        """The expected return just before each sampled token, so that the first one of a turn is the value of the state the
        turn acts in."""
        ...


@runtime_checkable
class NeedsValues(Protocol):
    """A credit rule that cannot work without a critic. The loop binds one step's values to it, then asks for credit; the
    critic learns towards the rule's own `targets`, since only the rule knows where it discounts.

    A rule of this kind is also a `CreditRule`, whose unbound `assign` refuses, so that nothing trains without its critic.
    """

    def with_values(self, values: Values) -> CreditRule:
        """The same rule, able to assign credit to the episodes `values` knows."""
        ...

    def targets(self, episode: Episode, values: TokenValues) -> TokenValues:
        """The returns the critic is to expect next time, `[turns][T]`; 0 at forced tokens."""
        ...


class Utterances(NamedTuple):
    """What an off-policy critic's twins say about the turns of one episode; 0 at turns without a sampled token."""

    q1: tuple[float, ...]
    """`[turns]`: what the first twin expects after the turn was said."""
    q2: tuple[float, ...]
    """The second."""
    v1: tuple[float, ...]
    """`[turns]`: what the first twin expects before it, under the policy."""
    v2: tuple[float, ...]
    """The second."""


class UtteranceValues(Protocol):
    """What an off-policy critic says; handed to rules that ask for it by `NeedsUtterances`."""

    def __call__(self, episode: Episode) -> Utterances:
        """The values of one of the step's episodes."""
        ...


@runtime_checkable
class NeedsUtterances(Protocol):
    """A credit rule over an off-policy critic of whole utterances, as `NeedsValues` is one over values of tokens."""

    def with_utterances(self, values: UtteranceValues) -> CreditRule:
        """The same rule, able to assign credit to the episodes `values` knows."""
        ...

    def utterance_targets(self, episode: Episode, values: Sequence[float]) -> Sequence[float]:
        """What Q of each turn is to learn towards, `[turns]`, from the target critic's values before each turn."""
        ...


@runtime_checkable
class CreditRule(Protocol):
    """Assigns credit to the tokens of a group's episodes."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit for every episode of the group that counts.

        Args:
            group: finished, scored episodes. Faulty and unscored ones reach no statistic; they get None and a reason.
            rerun: plays on from a prefix; None when the loop offers none.
        """
        ...


@runtime_checkable
class Settles(Protocol):
    """A rule whose credit also depends on the other groups of the step, e.g. whitening over the batch.

    The loop calls `settle` once a step, after every group has its credit; a rule without it is left as it is.
    """

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """The step's final credit.

        Args:
            groups: all groups of the step.
            credits: what `CreditRule.assign` gave for each, in the same order.
        """
        ...


@runtime_checkable
class ComparesSiblings(Protocol):
    """A rule without a baseline setting that says whether a lone episode has any credit, so that a run can refuse a group
    size of one before it begins."""

    needs_siblings: ClassVar[bool]
    """True when episodes are compared within their group only."""


@runtime_checkable
class Remembers(Protocol):
    """A rule whose credit depends on what it assigned before, e.g. a running baseline. Checkpoints keep what it knows."""

    def state(self) -> Mapping[str, float]:
        """What `restore` needs to go on as if nothing had happened."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Continues from a `state`."""
        ...


class Members(NamedTuple):
    """Which episodes of a group count, and why the others do not."""

    kept: tuple[int, ...]
    """Indices into `EpisodeGroup.episodes`."""
    reasons: tuple[str | None, ...]
    """Per episode: ``env_fault``, ``infra_fault``, ``cancelled``, ``unscored`` or ``alone``; None when it counts."""


def members(group: EpisodeGroup, *, compared: bool = True) -> Members:
    """Splits a group into episodes that count and episodes that are left out.

    When faults leave a single episode of a larger group it has nothing to be compared with and is left out as ``alone``.

    Args:
        group: finished episodes.
        compared: whether episodes are compared with one another; with False a lone one counts, e.g. under a critic.

    Raises:
        TrainingError: a reward that is not finite.
    """
    reasons: list[str | None] = []
    for episode in group.episodes:
        value = None if episode.reward is None else episode.reward.value
        if episode.stop.is_fault:
            reasons.append(episode.stop.value)
        elif value is None:
            reasons.append("unscored")
        elif not isfinite(value):
            raise TrainingError(f"episode {episode.id!r} has reward {value!r}; mend the rubric to return finite scores")
        else:
            reasons.append(None)
    kept = [i for i, reason in enumerate(reasons) if reason is None]
    if compared and len(kept) == 1 and len(group.episodes) > 1:
        reasons[kept.pop()] = "alone"
    return Members(tuple(kept), tuple(reasons))


def value_of(episode: Episode) -> float:
    """The reward of an episode that `members` kept."""
    value = None if episode.reward is None else episode.reward.value
    if value is None:
        raise TrainingError(f"episode {episode.id!r} was never scored")
    return value


def spread(
    group: EpisodeGroup,
    by_turn: Mapping[int, Sequence[float]],
    *,
    zero_variance: bool,
    counts: Mapping[str, int] | None = None,
) -> Credit:
    """A group's credit from one number per turn: every sampled token of a turn gets it, forced tokens get 0.

    Args:
        by_turn: per kept episode (its index), one number per turn.
        zero_variance: whether the compared returns were all equal; a group none of whose tokens has credit counts as such.
        counts: see `Credit.counts`; zeros are left out.

    A turn with sampled (True, False, True) and number .5 gets (.5, 0, .5).
    """
    values: list[TokenValues | None] = []
    for i, episode in enumerate(group.episodes):
        if i not in by_turn:
            values.append(None)
            continue
        pairs = zip(episode.turns, by_turn[i], strict=True)
        values.append(tuple(tuple(a if s else 0.0 for s in turn.sampled) for turn, a in pairs))
    return Credit(
        group=group.id,
        values=tuple(values),
        reasons=_left_out(group, by_turn),
        zero_variance=zero_variance or _silent(values),
        counts={name: n for name, n in (counts or {}).items() if n},
    )


def spread_tokens(group: EpisodeGroup, by_token: Mapping[int, Sequence[float]], *, zero_variance: bool) -> Credit:
    """A group's credit from one number per sampled token.

    Args:
        by_token: per kept episode (its index), one number per sampled token, over its turns in order.
        zero_variance: whether the group carries no signal; one none of whose tokens has credit never does.

    Two turns with sampled (True, False) and (True, True) and numbers (.1, .2, .3) get (.1, 0) and (.2, .3).
    """
    values: list[TokenValues | None] = []
    for i, episode in enumerate(group.episodes):
        if i not in by_token:
            values.append(None)
            continue
        row = iter(by_token[i])
        values.append(tuple(tuple(next(row) if s else 0.0 for s in turn.sampled) for turn in episode.turns))
        if next(row, None) is not None:
            raise TrainingError(f"more numbers than the {episode.sampled_tokens} sampled tokens of episode {episode.id!r}")
    silent = zero_variance or _silent(values)
    return Credit(group=group.id, values=tuple(values), reasons=_left_out(group, by_token), zero_variance=silent)


def sampled_values(group: EpisodeGroup, credit: Credit) -> dict[int, list[float]]:
    """Per credited episode (its index), the credit of its sampled tokens over its turns in order: undoes `spread_tokens`."""
    found: dict[int, list[float]] = {}
    for i, (episode, values) in enumerate(zip(group.episodes, credit.values, strict=True)):
        if values is not None:
            pairs = zip(episode.turns, values, strict=True)
            found[i] = [a for turn, row in pairs for a, s in zip(row, turn.sampled, strict=True) if s]
    return found


def _silent(values: Sequence[TokenValues | None]) -> bool:
    return not any(a for rows in values if rows is not None for row in rows for a in row)


def _left_out(group: EpisodeGroup, credited: Mapping[int, object]) -> tuple[str | None, ...]:
    """Per episode, why it has no credit; None where it has, also when it was left alone."""
    return tuple(None if i in credited else reason for i, reason in enumerate(members(group).reasons))
