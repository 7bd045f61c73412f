"""Pairs of which one side is better: from a file, or the best against the worst attempt at a task.

The rule this module keeps: every group or pair that gives nothing is counted, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from phronesis.chat.format import ChatFormat
from phronesis.data.traces import Trace, common_prefix, encode, played
from phronesis.errors import ConfigError
from phronesis.records import Conversation, Episode, EpisodeGroup, Message, ToolSpec

Exchanges = tuple[tuple[Message, tuple[Message, ...]], ...]
"""Pairs of an assistant message and what was answered."""


class Preference(Struct, frozen=True, kw_only=True):
    """A pair as ids. Prefixes both sides share are computed once, and their tokens do not matter to the loss."""

    chosen: tuple[Trace, ...]
    """The better side; more than one trace where the format rewrote history or the episode branched."""
    rejected: tuple[Trace, ...]
    """The worse side."""
    chosen_value: float = 0.0
    """Value of the state the better side leads to; read by Step-APO alone."""
    rejected_value: float = 0.0
    """The same for the worse side."""


class PreferenceLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pair as messages: one line of a JSONL file."""

    opening: tuple[Message, ...]
    """What the assistant saw first, on both sides."""
    tools: tuple[ToolSpec, ...] = ()
    """Tools it could call."""
    chosen: Exchanges
    """How the better side went on."""
    rejected: Exchanges
    """How the worse side went on."""
    chosen_value: float = 0.0
    """See `Preference`."""
    rejected_value: float = 0.0
    """See `Preference`."""


class Collected(NamedTuple):
    """Pairs, and what gave none."""

    pairs: list[Preference]
    """In order."""
    left_out: dict[str, int]
    """Counts by reason."""


def read_lines(path: Path) -> list[PreferenceLine]:
    """The pairs of a JSONL file; blank lines are skipped.

    Raises:
        ConfigError: the file cannot be read, or a line is no pair; names the line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"preferences {path.name!r} cannot be read: {error}") from error
    found: list[PreferenceLine] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(msgspec.json.decode(line, type=PreferenceLine))
        except msgspec.DecodeError as error:
            raise ConfigError(
                f"{path.name!r}, line {number}: {error}; a line is an object with opening, chosen and rejected"
            ) from error
    return found


def encode_pair(line: PreferenceLine, chat: ChatFormat) -> Preference:
    """A pair of conversations as ids, exactly as an agent saying these messages would have produced them."""
    sides = (Conversation(opening=line.opening, tools=line.tools, exchanges=x) for x in (line.chosen, line.rejected))
    chosen, rejected = (tuple(encode(side, chat)) for side in sides)
    return Preference(chosen=chosen, rejected=rejected, chosen_value=line.chosen_value, rejected_value=line.rejected_value)


def best_against_worst(groups: Iterable[EpisodeGroup]) -> Collected:
    """From each group the attempt with the highest reward against that with the lowest; the first of equals.

    Values are the rewards. Left out: ``alone`` (fewer than two attempts count), ``tied`` (all rewards equal), ``no_tokens``
    (a side sampled nothing).
    """
    pairs: list[Preference] = []
    left_out: Counter[str] = Counter()
    for group in groups:
        attempts = [(_value(e), e) for e in group.valid]
        if len(attempts) < 2:
            left_out["alone"] += 1
            continue
        best, worst = max(attempts, key=lambda a: a[0]), min(attempts, key=lambda a: a[0])
        chosen, rejected = (tuple(played(e)) for _, e in (best, worst))
        if best[0] == worst[0]:
            left_out["tied"] += 1
        elif not chosen or not rejected:
            left_out["no_tokens"] += 1
        else:
            pairs.append(Preference(chosen=chosen, rejected=rejected, chosen_value=best[0], rejected_value=worst[0]))
    return Collected(pairs, dict(left_out))


def first_step(pair: Preference) -> Preference | None:
    """The pair cut to the first step in which the sides differ: what Step-DPO and Step-APO compare.

    A step is a run of marked tokens. Marked tokens before the sides part, inside the step too, are unmarked. None where the
    sides part outside a step (the world answered differently, so they do not continue one prefix), or where one side ends.

    Ids 1 2 [3 4] 5 [6] against 1 2 [3 7] 5 [8] (marked in brackets): 1 2 3 [4] against 1 2 3 [7].

    Source: Step-DPO, arXiv 2406.18629; formula [step-dpo].
    """
    place = next((i for i, (a, b) in enumerate(zip(pair.chosen, pair.rejected, strict=False)) if a != b), None)
    if place is None:
        return None
    sides = (pair.chosen[place], pair.rejected[place])
    at = common_prefix(sides[0].ids, sides[1].ids)
    cut = [_step(side, at) for side in sides]
    if cut[0] is None or cut[1] is None:
        return None
    return msgspec.structs.replace(pair, chosen=(cut[0],), rejected=(cut[1],))


def _step(trace: Trace, at: int) -> Trace | None:
    """The run of marked tokens that holds position `at`, marked from there on; None when `at` is in no such run."""
    if at >= len(trace.ids) or not trace.mask[at]:
        return None
    end = next((i for i in range(at, len(trace.ids)) if not trace.mask[i]), len(trace.ids))
    return Trace(ids=trace.ids[:end], mask=(False,) * at + (True,) * (end - at))


def _value(episode: Episode) -> float:
    value = None if episode.reward is None else episode.reward.value
    assert value is not None  # `EpisodeGroup.valid` keeps scored episodes alone
    return value
