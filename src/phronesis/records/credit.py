"""Credit: how much each token of each episode is to be made more or less likely. Never written into an episode."""

from __future__ import annotations

from msgspec import Struct


class Credit(Struct, frozen=True, kw_only=True, gc=False):
    """The output of a credit rule for one group.

    `values[e][k][t]` belongs to token t of turn k of episode e, in the order of `EpisodeGroup.episodes`.
    """

    group: str
    """Id of the group."""
    values: tuple[tuple[tuple[float, ...], ...] | None, ...]
    """Per episode, per turn, `[T]` floats; None for an episode that is left out (fault or unscored)."""
    reasons: tuple[str | None, ...]
    """Per episode: why it is left out; None when it is not."""
    zero_variance: bool = False
    """True when all compared returns were equal, so that the group carries no signal."""
    counts: dict[str, int] = {}
    """What the rule could not do as meant, by name: ``lone_turns`` that had none to be compared with and so got 0, and
    ``mean_not_positive``, comparisons that MaxRL gave up."""
