"""Advantage estimation by turns: an action is one decision, however many tokens it takes to say it.

Source: turn-level PPO, arXiv 2512.17008; the estimator is `gae` with turns for steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from phronesis.credit.critics.gae import END, Estimate, gae
from phronesis.credit.critics.valued import Ahead, Bound, OverValues, check_lam, over_turns
from phronesis.credit.rule import CreditRule, TokenValues, Values
from phronesis.credit.turnwise.turns import check_gamma
from phronesis.records import Episode


def turn_gae(
    values: Sequence[Sequence[float]],
    rewards: Sequence[float],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    ahead: Ahead = END,
) -> Estimate:
    """One advantage and one return per turn, from the value at each turn's first token.

    Values ((.2, .9), (.4,)), rewards (0, 1), gamma .9, lam 1: advantages (.7, .6), returns (.9, 1). The .9 inside the first
    turn does not matter.

    Args:
        values: per turn, at least one value; only the first is read.
        rewards: one per turn.
        gamma, lam: per turn, in [0, 1].
        ahead: what follows the last turn; nothing by default.
    """
    return gae([row[0] for row in values], rewards, gamma=gamma, lam=lam, ahead=ahead)


class TurnGAECredit(OverValues, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="turn_gae"):
    """Every sampled token of a turn gets the turn's advantage over the critic's value at its first token. Needs a critic."""

    gamma: float = 1.0
    """Discount per turn, in [0, 1]."""
    lam: float = 0.95
    """Memory of the policy's advantages, per turn, in [0, 1]."""
    critic_lam: float = 1.0
    """The same for the returns the critic learns towards."""
    whiten: bool = False
    """Centre and scale advantages over all sampled tokens of the step; see `GAECredit`."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        check_lam(self.lam, self.critic_lam)

    def with_values(self, values: Values) -> CreditRule:
        """The rule over one step's values."""
        return Bound(self, values, self.whiten)

    def advantages(self, episode: Episode, values: TokenValues) -> TokenValues:
        """Credit of one episode."""
        return self._by_turn(episode, values, self.lam)

    def targets(self, episode: Episode, values: TokenValues) -> TokenValues:
        """The turn's return, at every token of it: within an action nothing is earned and nothing discounted."""
        found = self._by_turn(episode, values, self.critic_lam)
        rows: list[tuple[float, ...]] = []
        for row, known, turn in zip(found, values, episode.turns, strict=True):
            first = next((v for v, s in zip(known, turn.sampled, strict=True) if s), 0.0)
            rows.append(tuple(a + first if s else 0.0 for a, s in zip(row, turn.sampled, strict=True)))
        return tuple(rows)

    def _by_turn(self, episode: Episode, values: TokenValues, lam: float) -> TokenValues:
        def turn(k: int, kept: Sequence[float], reward: float, ahead: Ahead) -> list[float]:
            return turn_gae([kept], [reward], gamma=self.gamma, lam=lam, ahead=ahead).advantages * len(kept)

        return over_turns(episode, values, turn)
