"""From scored groups and their credit to one batch, with a proof that its tokens are those the policy sampled.

Every token of an episode appears once, on its path; prompts shared within a group or across the batch are one segment, so
they are computed once. The rule this module keeps: nothing is dropped without being counted in `Batch.dropped`, and a batch
whose ids, masks, lengths or prompt checksums do not agree with its episodes is an error, never trained on.
"""

from __future__ import annotations

import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

from msgspec import Struct

from phronesis.errors import ConfigError, TrainingError
from phronesis.records import Batch, Credit, Episode, EpisodeGroup, Segment, Turn
from phronesis.train.forest import Anchor, Forest
from phronesis.train.selection import FAULTS, repair, untruncated
from phronesis.train.trainable import check_trainable

TurnValues = tuple[tuple[float, ...], ...]


class BatchConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes into a batch."""

    drop_silent: bool = True
    """Leave out episodes whose credit is 0 everywhere: they add no policy gradient. Set False with an entropy bonus."""
    count_silent: bool = True
    """Let left-out silent episodes count in the denominators, so that dropping them changes no gradient."""
    drop_truncated: bool = False
    """Leave out episodes that a limit ended, after they counted in baselines (overlong filtering, DAPO); of an episode whose
    branches ended each for itself (`Episode.stops`), the turns that lead to truncated branches alone."""
    repair: bool = False
    """Fill the places of faulty episodes with copies of valid siblings, whose credit was computed without them; a group with
    half of its members or more missing is left out (GLM-5)."""
    shortest_prefix: int = 16
    """Tokens a prefix common to different prompts needs to be computed once, at least 1."""

    observations: bool = False
    """Hand the environment's answers to the loss as a supervised stream (`LossConfig.observations` weighs it). Prompts, and
    answers that branches of an episode share, are not among them."""

    def __post_init__(self) -> None:
        if self.shortest_prefix < 1:
            raise ConfigError(f"shortest_prefix {self.shortest_prefix!r} must be at least 1")


class _Member(NamedTuple):
    episode: Episode
    values: TurnValues
    turns: frozenset[int]
    """Indices of the turns to learn from."""
    tokens: int


def build_batch(groups: Sequence[EpisodeGroup], credits: Sequence[Credit], config: BatchConfig | None = None) -> Batch:
    """All trained tokens of a step as a forest of segments.

    Args:
        groups: scored groups.
        credits: the credit of each, in the same order.
        config: what to leave out; None means the defaults.

    Returns:
        A batch; without segments when nothing carries a signal. `dropped` counts left-out episodes by the credit rule's
        reason, and as ``no_tokens`` (nothing sampled), ``no_signal`` (all credit 0), ``truncated`` or ``group_broken``;
        ``truncated_branches`` counts branches of episodes that stay.

    Raises:
        TrainingError: credit and group do not belong together, or an episode's records contradict one another.
        Untrainable: an episode of a policy that takes messages.

    Two episodes that answer one prompt of 20 tokens with 5 and 7 sampled tokens make three segments: the prompt, and under
    it two of 5 and 7 tokens.
    """
    config = config or BatchConfig()
    check_trainable(groups)
    dropped: Counter[str] = Counter()
    kept: list[_Member] = []
    total_tokens = total_sequences = total_turns = 0
    for member in _members(groups, credits, config, dropped):
        silent = config.drop_silent and not any(any(member.values[k]) for k in member.turns)
        if not silent or config.count_silent:
            total_tokens += member.tokens
            total_sequences += 1
            total_turns += sum(any(member.episode.turns[k].sampled) for k in member.turns)
        if silent:
            dropped["no_signal"] += 1
        else:
            kept.append(member)
    segments = _segments(kept, config)
    return Batch(
        segments=segments,
        episodes=tuple(m.episode.id for m in kept),
        dropped=dict(dropped),
        sequence_tokens=tuple(m.tokens for m in kept),
        total_tokens=total_tokens,
        total_sequences=total_sequences,
        total_turns=total_turns,
        total_observed=sum(sum(s.observed) for s in segments),
        versions=tuple(tuple(t.version[0] for t in m.episode.turns) for m in kept),
    )


def _members(
    groups: Sequence[EpisodeGroup], credits: Sequence[Credit], config: BatchConfig, dropped: Counter[str]
) -> list[_Member]:
    """Episodes with credit and sampled tokens, verified; the others are counted."""
    if len(groups) != len(credits):
        raise TrainingError(f"{len(groups)} groups but {len(credits)} credits")
    found: list[_Member] = []
    for group, credit in zip(groups, credits, strict=True):
        if credit.group != group.id or not len(credit.values) == len(credit.reasons) == len(group.episodes):
            raise TrainingError(
                f"credit of group {credit.group!r} ({len(credit.values)} episodes) does not belong to group "
                f"{group.id!r} ({len(group.episodes)} episodes)"
            )
        whole, full = repair(group, credit) if config.repair else (group, credit)
        if whole is not group:  # those that were replaced are counted all the same
            dropped.update(reason for reason in credit.reasons if reason in FAULTS)
        for episode, values, reason in zip(whole.episodes, full.values, full.reasons, strict=True):
            turns = untruncated(episode) if config.drop_truncated else range(len(episode.turns))
            if values is None:
                dropped[reason or "left_out"] += 1
            elif turns is None:
                dropped["truncated"] += 1
            else:
                verify(episode, values)
                if len(turns) < len(episode.turns):
                    dropped["truncated_branches"] += sum(stop.is_truncated for stop in episode.stops)
                tokens = sum(episode.turns[k].produced for k in turns)
                if tokens:
                    found.append(_Member(episode, values, frozenset(turns), tokens))
                else:
                    dropped["no_tokens"] += 1
    return found


def verify(episode: Episode, values: TurnValues) -> None:
    """Proves that an episode's records and credit agree: what is trained is what was sampled, after what was consumed.

    Raises:
        TrainingError: naming episode and turn: lengths differ, a checksum differs, a number is not finite, credit lies on a
            forced token, a parent comes after its child, or a root has no prompt.
    """
    if len(values) != len(episode.turns):
        raise TrainingError(f"episode {episode.id!r} has {len(episode.turns)} turns but credit for {len(values)}")
    ends: list[int] = []
    for k, (turn, row) in enumerate(zip(episode.turns, values, strict=True)):
        if turn.parent is not None and not 0 <= turn.parent < k:
            raise _broken(episode, k, f"its parent {turn.parent} does not come before it")
        if turn.parent is None and not turn.context:
            raise _broken(episode, k, "it begins without a prompt, so nothing predicts its first token")
        prompt = _crc(turn.context, 0 if turn.parent is None else ends[turn.parent])
        if prompt != turn.prompt_crc:
            raise _broken(episode, k, f"the engine consumed other ids than recorded (crc {turn.prompt_crc} against {prompt})")
        ends.append(_crc(turn.completion, prompt))
        fault = _numbers(turn, row)
        if fault is not None:
            raise _broken(episode, k, fault)


def _numbers(turn: Turn, row: tuple[float, ...]) -> str | None:
    n = len(turn.completion)
    if not n == len(turn.sampled) == len(turn.logprobs) == len(row):
        return f"{n} ids, {len(turn.sampled)} marks, {len(turn.logprobs)} logprobs, {len(row)} credits"
    if not all(isfinite(p) for p, s in zip(turn.logprobs, turn.sampled, strict=True) if s):
        return "a sampled token has a logprob that is not finite"
    if not all(map(isfinite, row)):
        return "its credit is not finite"
    if any(a and not s for a, s in zip(row, turn.sampled, strict=True)):
        return "a forced token has credit; only sampled tokens can be trained"
    return None


def _broken(episode: Episode, turn: int, what: str) -> TrainingError:
    return TrainingError(f"episode {episode.id!r}, turn {turn}: {what}")


def _crc(ids: Sequence[int], start: int) -> int:
    """`phronesis.policy.prompt_crc` of a longer sequence, continued from the checksum of its beginning."""
    return zlib.crc32(array("i", ids).tobytes(), start)


def _segments(kept: Sequence[_Member], config: BatchConfig) -> tuple[Segment, ...]:
    forest = Forest()
    roots = [m.episode.turns[k] for m in kept for k in sorted(m.turns) if m.episode.turns[k].parent is None]
    prompts = [turn.context for turn in roots]
    anchors = forest.share(prompts, config.shortest_prefix)
    for index, member in enumerate(kept):
        _Growth(forest, member, index, config.observations).grow_roots(anchors)
    trained = sum(sum(s.mask) for s in forest.segments)
    sampled = sum(m.tokens for m in kept)
    if trained != sampled:
        raise TrainingError(f"the batch would train {trained} tokens, but {sampled} were sampled")
    return tuple(forest.segments)


class _Growth:
    """Adds one episode's turns to a forest: a branch-free run of turns is one segment."""

    def __init__(self, forest: Forest, member: _Member, index: int, observations: bool):
        self.forest, self.index, self.observations = forest, index, observations
        self.turns, self.values = member.episode.turns, member.values
        self.trace = 0
        self.children: dict[int | None, list[int]] = {}
        for k, turn in enumerate(self.turns):
            if k in member.turns:
                self.children.setdefault(turn.parent, []).append(k)

    def grow_roots(self, anchors: dict[tuple[int, ...], Anchor]) -> None:
        """Adds every trajectory of the episode under its prompt."""
        for trace, k in enumerate(self.children.get(None, [])):
            self.trace = trace
            anchor = anchors[self.turns[k].context]
            self.grow(k, anchor.segment, anchor.rest)

    def grow(self, k: int, parent: int | None, context: tuple[int, ...]) -> None:
        """Adds turn `k` after `context`, and all that follows it."""
        ids: list[int] = []
        mask: list[bool] = []
        logprobs: list[float] = []
        advantages: list[float] = []
        turns: list[int] = []
        observed: list[bool] = []
        temperature = self._temperature(k)
        while True:
            turn, n = self.turns[k], len(context)
            ids += context + turn.completion
            mask += (False,) * n + turn.sampled
            logprobs += (0.0,) * n + tuple(p if s else 0.0 for p, s in zip(turn.logprobs, turn.sampled, strict=True))
            advantages += (0.0,) * n + self.values[k]
            turns += (-1,) * n + tuple(k if s else -1 for s in turn.sampled)
            answer = self.observations and turn.parent is not None
            observed += (answer,) * n + (False,) * len(turn.completion)
            following = self.children.get(k, [])
            if len(following) != 1 or self._temperature(following[0]) != temperature:
                break
            k = following[0]
            context = self.turns[k].context
        if ids:
            parent = self.forest.add(
                Segment(
                    parent=parent,
                    ids=tuple(ids),
                    mask=tuple(mask),
                    logprobs=tuple(logprobs),
                    advantages=tuple(advantages),
                    turns=tuple(turns),
                    trace=self.trace,
                    episode=self.index,
                    observed=tuple(observed) if any(observed) else (),
                    temperature=temperature,
                )
            )
        self._fork(following, parent)

    def _fork(self, siblings: Sequence[int], parent: int | None) -> None:
        """Adds turns that extend the same turn; a context several of them share is computed once."""
        uses = Counter(self.turns[k].context for k in siblings)
        shared = {c: self.forest.context(parent, c, self.index) for c, n in uses.items() if n > 1 and c}
        for k in siblings:
            context = self.turns[k].context
            if context in shared:
                self.grow(k, shared[context], ())
            else:
                self.grow(k, parent, context)

    def _temperature(self, k: int) -> float:
        """Temperature the logprobs refer to: 1 for greedy turns."""
        return self.turns[k].temperature or 1.0
