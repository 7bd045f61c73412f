"""Learning from verified attempts alone, as credit: 1 for each that is kept, nothing for the others.   RAFT, RFT, STaR."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import ClassVar

import msgspec
from msgspec import Struct

from phronesis.credit.rule import Rerun, members, spread, value_of
from phronesis.errors import ConfigError
from phronesis.records import Credit, EpisodeGroup


def check_cap(cap: int | None) -> None:
    """Raises ConfigError unless `cap` is None or at least 1."""
    if cap is not None and cap < 1:
        raise ConfigError(f"cap {cap!r} must be at least 1, or null for none")


def why_left_out(
    rewards: Sequence[float], said: Sequence[Hashable], *, success: float = 1.0, cap: int | None = None
) -> list[str | None]:
    """Of attempts at one task, why each is not learned from; None for those that are.

    Rewards 1, 1, 0, 1 of which the first two said the same: None, ``duplicate``, ``failed``, None; with cap 1 the last one is
    ``over_cap``.   Formula [rft].

    Args:
        rewards: one per attempt.
        said: what each attempt sampled; equal ones are learned from once.
        success: the reward from which an attempt is verified.
        cap: most attempts kept, at least 1; None means all.
    """
    check_cap(cap)
    kept: set[Hashable] = set()
    found: list[str | None] = []
    for reward, words in zip(rewards, said, strict=True):
        if not reward >= success:
            found.append("failed")
        elif words in kept:
            found.append("duplicate")
        elif cap is not None and len(kept) >= cap:
            found.append("over_cap")
        else:
            kept.add(words)
            found.append(None)
    return found


class VerifiedCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="verified"):
    """Credit 1 for verified attempts, each once and at most `cap` per group; the others are left out and counted, by reason.

    With the `reinforce` or `supervised` objective this is RAFT: supervised learning on what was verified. Biased: without a
    baseline it never learns what to avoid.   Source: RAFT, arXiv 2304.06767; formula [rft]. See `why_left_out`.
    """

    needs_siblings: ClassVar[bool] = False
    """A lone episode has credit."""
    success: float = 1.0
    """The reward from which an attempt is verified."""
    cap: int | None = 4
    """Most attempts learned from per group, at least 1; None means all."""

    def __post_init__(self) -> None:
        check_cap(self.cap)

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        kept = members(group, compared=False).kept
        rewards = [value_of(group.episodes[e]) for e in kept]
        said = [tuple(t.completion for t in group.episodes[e].turns) for e in kept]
        why = dict(zip(kept, why_left_out(rewards, said, success=self.success, cap=self.cap), strict=True))
        learned = [e for e in kept if why[e] is None]
        credit = spread(group, {e: [1.0] * len(group.episodes[e].turns) for e in learned}, zero_variance=not learned)
        faults = members(group, compared=False).reasons
        return msgspec.structs.replace(credit, reasons=tuple(why.get(e, faults[e]) for e in range(len(group.episodes))))
