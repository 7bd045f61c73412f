"""One line of the index: what lists and charts need of an episode, without its tokens."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from phronesis.records import Episode, Reward, Stop, Usage
from phronesis.store import codec


class Row(Struct, frozen=True, kw_only=True):
    """Summary of one stored episode."""

    id: str
    """Unique within its kind."""
    kind: str
    """What it was played for, e.g. ``train`` or ``heldout_before``."""
    task: str
    """Task id."""
    env: str
    """Environment."""
    split: str
    """Split of the task."""
    difficulty: float | None
    """Difficulty of the task; None when the environment has no dial."""
    step: int | None
    """Training step; None outside training."""
    group: str | None
    """Group it is compared within; None when alone."""
    reward: float | None
    """Total reward; None when never scored."""
    success: bool | None
    """Whether the reward reached the environment's bar; None for faults and unscored episodes."""
    stop: str
    """Why it ended; may be a word of a newer version."""
    turns: int
    """Policy calls."""
    sampled_tokens: int
    """Tokens the policy produced."""
    context_tokens: int
    """Tokens that were given."""
    seconds: float
    """Wall-clock duration."""
    file: str
    """Name of the file in ``episodes/``."""
    offset: int
    """Where its frame begins, bytes."""
    length: int
    """Length of its frame, bytes."""


class _TaskHead(Struct):
    id: str
    env: str
    split: str = "train"
    difficulty: float | None = None


class _TurnHead(Struct):
    context: Raw
    sampled: Raw
    usage: Usage | None = None


class _Head(Struct):
    id: str
    task: _TaskHead
    stop: str
    turns: list[_TurnHead] = []
    reward: Reward | None = None
    group: str | None = None
    step: int | None = None
    seconds: float = 0.0


_heads = msgspec.json.Decoder(_Head)
_FAULTS = frozenset(s.value for s in Stop if s.is_fault)
_KNOWN = frozenset(s.value for s in Stop)


class Place(Struct, frozen=True):
    """Where a line was found."""

    kind: str
    """Kind of episode."""
    file: str
    """Name of the file."""
    offset: int
    """First byte of the frame."""
    length: int
    """Bytes of the frame."""


def summarise(line: bytes, place: Place, bars: Mapping[str, float]) -> Row:
    """The row of one line; tokens are counted without being read.

    Args:
        line: the line.
        place: where it was found.
        bars: environment -> reward from which an episode counts as a success; 1.0 for one that is not listed.

    Raises:
        Unreadable: the line is not an episode.
    """
    if codec.is_marked(line):
        return _from_episode(codec.decode(line).episode, place, bars)
    try:
        head = _heads.decode(line)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return _from_episode(codec.decode(line).episode, place, bars)
    told = [t.usage for t in head.turns if t.usage is not None]
    sampled = sum(bytes(t.sampled).count(b"true") for t in head.turns) + sum(u.output_tokens for u in told)
    forced = sum(bytes(t.sampled).count(b"false") for t in head.turns)
    context = sum(raw.count(b",") + 1 for t in head.turns if len(raw := bytes(t.context)) > 2)
    context += sum(u.input_tokens for u in told)
    value = head.reward.value if head.reward is not None else None
    fault = head.stop in _FAULTS or head.stop not in _KNOWN
    return Row(
        id=head.id,
        kind=place.kind,
        task=head.task.id,
        env=head.task.env,
        split=head.task.split,
        difficulty=head.task.difficulty,
        step=head.step,
        group=head.group,
        reward=value,
        success=None if value is None or fault else value >= bars.get(head.task.env, 1.0),
        stop=head.stop,
        turns=len(head.turns),
        sampled_tokens=sampled,
        context_tokens=context + forced,
        seconds=head.seconds,
        file=place.file,
        offset=place.offset,
        length=place.length,
    )


def _from_episode(episode: Episode, place: Place, bars: Mapping[str, float]) -> Row:
    value = episode.reward.value if episode.reward is not None else None
    return Row(
        id=episode.id,
        kind=place.kind,
        task=episode.task.id,
        env=episode.task.env,
        split=episode.task.split,
        difficulty=episode.task.difficulty,
        step=episode.step,
        group=episode.group,
        reward=value,
        success=None if value is None or episode.stop.is_fault else value >= bars.get(episode.task.env, 1.0),
        stop=episode.stop.value,
        turns=len(episode.turns),
        sampled_tokens=episode.sampled_tokens,
        context_tokens=episode.context_tokens,
        seconds=episode.seconds,
        file=place.file,
        offset=place.offset,
        length=place.length,
    )
