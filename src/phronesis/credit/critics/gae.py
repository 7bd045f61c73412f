"""Generalised advantage estimation: how much better things went than a critic expected, looking ahead with a fading memory.

Observations are not the policy's doing: time passes only at tokens it sampled, so the value and the running advantage are
carried across everything else. A truncated episode ends like a finished one, with value 0 behind it: limits are part of
the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from phronesis.credit.critics.valued import Ahead, Bound, OverValues, add, check_lam, over_turns
from phronesis.credit.rule import CreditRule, TokenValues, Values
from phronesis.credit.turnwise.turns import check_gamma, trajectory_lengths
from phronesis.errors import ConfigError
from phronesis.records import Episode

END = Ahead(0.0, 0.0)
"""Nothing follows."""


class Estimate(NamedTuple):
    """Advantages, and the returns a critic learns towards."""

    advantages: list[float]
    """One per token."""
    returns: list[float]
    """Advantage plus value."""


def gae(
    values: Sequence[float], rewards: Sequence[float], *, gamma: float = 1.0, lam: float = 0.95, ahead: Ahead = END
) -> Estimate:
    """A token's surprise plus what follows of it: ``delta = r + gamma V_next - V``, ``A = delta + gamma lam A_next``.

    Source: arXiv 1506.02438 eq. 16; formula [gae]. gamma .99, lam .95, values (.5, .6, .7), rewards (0, 0, 1):
    advantages (.446829, .37515, .3).

    Args:
        values: expected return just before each token.
        rewards: earned at each token, as many.
        gamma: discount per token, in [0, 1].
        lam: 0 trusts the critic after one token, 1 only the rewards; in [0, 1]. Below 1 the estimate is biased by the critic.
        ahead: what follows the last token; nothing by default.
    """
    advantages = [0.0] * len(values)
    next_value, next_advantage = ahead
    for t in reversed(range(len(values))):
        next_advantage = rewards[t] + gamma * next_value - values[t] + gamma * lam * next_advantage
        next_value = values[t]
        advantages[t] = next_advantage
    return Estimate(advantages, [a + v for a, v in zip(advantages, values, strict=True)])


def gae_skip(
    values: Sequence[float], rewards: Sequence[float], mask: Sequence[bool], *, gamma: float = 1.0, lam: float = 0.95
) -> Estimate:
    """`gae` on the masked tokens alone, with 0 in between.   Formula [gae-skip]; SAO, arXiv 2607.07508.

    Whatever stands at the other positions, NaN included, is never read: a reward must lie on a masked token.
    Values (.5, .6, .9, .7), mask (1, 1, 0, 1), rewards (0, 0, 0, 1), gamma 1, lam .95: advantages (.46575, .385, 0, .3).
    """
    kept = [t for t, m in enumerate(mask) if m]
    found = gae([values[t] for t in kept], [rewards[t] for t in kept], gamma=gamma, lam=lam)
    advantages, returns = [0.0] * len(mask), [0.0] * len(mask)
    for t, advantage, value in zip(kept, found.advantages, found.returns, strict=True):
        advantages[t], returns[t] = advantage, value
    return Estimate(advantages, returns)


def lambda_len(length: float, alpha: float = 1.5) -> float:
    """A lambda that looks further in longer sequences: ``1 - 1 / (alpha L)``; 0 for an empty one.

    Source: SAO, arXiv 2607.07508 (also VAPO, arXiv 2504.05118); formula [lambda-len]. alpha 1.5: L 100 gives .993333.
    Whether L counts observations is not published; `SAOCredit` counts sampled tokens only, which is ours.
    """
    return 1.0 - 1.0 / (alpha * length) if length else 0.0


def token_gae(episode: Episode, values: TokenValues, *, gamma: float, lam: float | Sequence[float]) -> TokenValues:
    """`gae` over an episode's sampled tokens; a turn's reward lies on its last one. Where the episode forks, the mean of the
    branches' first values and advantages follows.

    Args:
        episode: scored.
        values: per turn, one per token.
        gamma: discount per sampled token, in [0, 1].
        lam: memory per sampled token, in [0, 1]; one for all, or one per turn.
    """

    def turn(k: int, kept: Sequence[float], reward: float, ahead: Ahead) -> list[float]:
        rewards = [0.0] * (len(kept) - 1) + [reward]
        memory = lam if isinstance(lam, float | int) else lam[k]
        return gae(kept, rewards, gamma=gamma, lam=memory, ahead=ahead).advantages

    return over_turns(episode, values, turn)


class GAECredit(OverValues, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="gae"):
    """Every sampled token gets its own advantage over the critic's value (PPO).   See `gae`, `gae_skip`.

    Needs a critic (`critic` of the run). With ``gamma`` below 1 every token of an action discounts (formula [ntpo]), which
    makes long actions short-sighted; `POADCredit` discounts between actions only.
    """

    gamma: float = 1.0
    """Discount per sampled token, in [0, 1]."""
    lam: float = 0.95
    """Memory of the policy's advantages, in [0, 1]; below 1 they are biased by what the critic has not learned."""
    critic_lam: float = 1.0
    """The same for the returns the critic learns towards; 1 is the plain return."""
    whiten: bool = False
    """Centre and scale advantages over all sampled tokens of the step, as PPO codes do: steadier while the critic is wrong
    about the level of the returns, and no longer in units of reward."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        check_lam(self.lam, self.critic_lam)

    def with_values(self, values: Values) -> CreditRule:
        """The rule over one step's values."""
        return Bound(self, values, self.whiten)

    def advantages(self, episode: Episode, values: TokenValues) -> TokenValues:
        """Credit of one episode."""
        return token_gae(episode, values, gamma=self.gamma, lam=self.lam)

    def targets(self, episode: Episode, values: TokenValues) -> TokenValues:
        """What the critic learns towards."""
        return add(episode, token_gae(episode, values, gamma=self.gamma, lam=self.critic_lam), values)


class SAOCredit(OverValues, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sao"):
    """SAO: one rollout a prompt, a critic instead of siblings, and a lambda that grows with the trajectory.

    The policy's lambda is `lambda_len` of the trajectory's sampled tokens (see `trajectory_lengths`), the critic's 1.

    Source: arXiv 2607.07508.
    A critic as published: ten warm-up steps, two updates a step, attention frozen, five times the policy's learning rate.
    """

    alpha: float = 1.5
    """Length in `lambda_len` is multiplied by it; at least 1."""
    gamma: float = 1.0
    """Discount per sampled token, in [0, 1]; 1 is ours, the source names none."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        if not self.alpha >= 1:
            raise ConfigError(f"sao alpha {self.alpha!r} must be at least 1")

    def with_values(self, values: Values) -> CreditRule:
        """The rule over one step's values."""
        return Bound(self, values)

    def advantages(self, episode: Episode, values: TokenValues) -> TokenValues:
        """Credit of one episode."""
        lams = [lambda_len(length, self.alpha) for length in trajectory_lengths(episode)]
        return token_gae(episode, values, gamma=self.gamma, lam=lams)

    def targets(self, episode: Episode, values: TokenValues) -> TokenValues:
        """What the critic learns towards: the return."""
        return add(episode, token_gae(episode, values, gamma=self.gamma, lam=1.0), values)
