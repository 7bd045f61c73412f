"""Action decomposition: a critic at every token, but time passes only between actions.

Within an action the value of the next token replaces a reward, undiscounted; only its last token discounts what follows.
So the length of an action does not change how far the policy looks ahead, and credit still differs by token.

Source: POAD, arXiv 2405.15821 (Bellman backup with action decomposition, BAD); formulas [poad] and [ntpo].
"""

from __future__ import annotations

from collections.abc import Sequence

from phronesis.credit.critics.gae import END, gae
from phronesis.credit.critics.valued import Ahead, Bound, OverValues, add, check_lam, over_turns
from phronesis.credit.rule import CreditRule, TokenValues, Values
from phronesis.credit.turnwise.turns import check_gamma
from phronesis.records import Episode


def poad(
    values: Sequence[Sequence[float]],
    rewards: Sequence[float],
    *,
    gamma: float = 0.99,
    lam: float = 0.95,
    ahead: Ahead = END,
) -> list[list[float]]:
    """Inside an action ``delta = V_next - V``, ``A = delta + lam A_next``; at its last token
    ``delta = r + gamma V_next - V``, ``A = delta + gamma lam A_next``, next being the next action's first token.

    Values ((.2, .3), (.4, .5)), rewards (0, 1), gamma .9, lam 1: ((.7, .6), (.6, .5)); lam .95:
    ((.624044, .551625), (.575, .5)). With actions of one token this is `gae`.

    Args:
        values: per action, one per token; an action without tokens takes no time, and its reward goes to the one before.
        rewards: one per action, earned at its end.
        gamma: discount per action, in [0, 1].
        lam: memory per token, in [0, 1].
        ahead: what follows the last action; nothing by default.
    """
    rows: list[list[float]] = [[] for _ in values]
    owed = 0.0
    for k in reversed(range(len(values))):
        own, reward = values[k], rewards[k] + owed
        if not own:
            owed = reward
            continue
        owed = 0.0
        last = reward + gamma * ahead.value - own[-1] + gamma * lam * ahead.advantage
        inner = gae(own[:-1], [0.0] * (len(own) - 1), gamma=1.0, lam=lam, ahead=Ahead(own[-1], last)).advantages
        rows[k] = [*inner, last]
        ahead = Ahead(own[0], rows[k][0])
    return rows


def ntpo(
    values: Sequence[Sequence[float]], rewards: Sequence[float], *, gamma: float = 0.99, lam: float = 0.95
) -> list[list[float]]:
    """The naive form: `gae` over the tokens of all actions in a row, every token discounting; long actions look less far.

    The numbers of `poad` with lam 1: ((.529, .51), (.5, .5)).

    Args:
        values, rewards: as in `poad`.
        gamma, lam: per token, in [0, 1].
    """
    flat = [v for row in values for v in row]
    earned = [0.0] * len(flat)
    at = 0
    for row, reward in zip(values, rewards, strict=True):
        at += len(row)
        if at:
            earned[at - 1] += reward
    found = iter(gae(flat, earned, gamma=gamma, lam=lam).advantages)
    return [[next(found) for _ in row] for row in values]


class POADCredit(OverValues, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="poad"):
    """Every sampled token gets its own advantage; only turns discount.   See `poad`. Needs a critic.

    The naive form, where every token discounts, is `GAECredit`.
    """

    gamma: float = 0.99
    """Discount per turn, in [0, 1]."""
    lam: float = 0.95
    """Memory of the policy's advantages, per token, in [0, 1]."""
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
        return self._by_action(episode, values, self.lam)

    def targets(self, episode: Episode, values: TokenValues) -> TokenValues:
        """What the critic learns towards."""
        return add(episode, self._by_action(episode, values, self.critic_lam), values)

    def _by_action(self, episode: Episode, values: TokenValues, lam: float) -> TokenValues:
        def turn(k: int, kept: Sequence[float], reward: float, ahead: Ahead) -> list[float]:
            return poad([kept], [reward], gamma=self.gamma, lam=lam, ahead=ahead)[0]

        return over_turns(episode, values, turn)
