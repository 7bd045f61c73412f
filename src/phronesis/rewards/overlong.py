"""A penalty on replies that come near the limit of length, instead of a cliff at it."""

from __future__ import annotations

from collections.abc import Sequence

from phronesis.errors import ConfigError
from phronesis.records import Component, EpisodeGroup, Reward


def overlong(length: int, longest: int, cushion: int) -> float:
    """0 up to ``longest - cushion`` tokens, falling to -1 at `longest`, -1 beyond.

    Source: soft overlong punishment of DAPO, arXiv 2503.14476 eq. 13; formula [overlong].

    >>> [overlong(n, 20480, 4096) for n in (16384, 18432, 20480, 20481)]
    [0.0, -0.5, -1.0, -1.0]

    Args:
        length: tokens of the reply.
        longest: L_max, tokens.
        cushion: L_cache, tokens before it over which the penalty grows; 0 makes it a cliff.
    """
    if length > longest:
        return -1.0
    over = length - (longest - cushion)
    return -over / cushion if over > 0 else 0.0


class Overlong:
    """A rubric that gives every fault-free episode the penalty of its sampled tokens. Add it to another with `AllOf`.

    With ``Overlong(longest=100, cushion=20)`` an episode of 90 sampled tokens gets the component ``overlong`` = -.5.
    """

    def __init__(self, *, longest: int, cushion: int, weight: float = 1.0) -> None:
        """Choose where it begins.

        Args:
            longest: sampled tokens at which the penalty is whole, at least 1.
            cushion: tokens before it over which the penalty grows, in [0, longest].
            weight: factor in the total.

        Raises:
            ConfigError: lengths out of range.
        """
        if longest < 1 or not 0 <= cushion <= longest:
            raise ConfigError(f"overlong needs 0 <= cushion <= longest and longest >= 1, got {cushion!r} and {longest!r}")
        self.longest, self.cushion, self.weight = longest, cushion, weight

    async def score(self, group: EpisodeGroup) -> Sequence[Reward]:
        """One reward per episode; without components for those that ended in a fault."""
        return [
            Reward()
            if e.stop.is_fault
            else Reward(
                components=(
                    Component(
                        name="overlong",
                        score=overlong(e.sampled_tokens, self.longest, self.cushion),
                        weight=self.weight,
                    ),
                )
            )
            for e in group.episodes
        ]
