"""REINFORCE with a weight that carries no gradient: CISPO truncates the ratio, DIS drops tokens outside an interval."""

from __future__ import annotations

from math import log

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.inputs import TIE, LossInputs, log_ratio
from phronesis.losses.objectives.policy_gradient import TokenTerms, reinforce


def cispo(logp_theta_N: Tensor, logp_old_N: Tensor, advantages_N: Tensor, *, cap: float, floor: float = 0.0) -> TokenTerms:
    """``-sg(min(r, cap)) A log pi`` per token `[N]`: every token keeps a gradient, rare turning points included.

    r = [.5, 1, 3], cap 2, A = 1, log pi = [-1, -2, -.5]: [.5, 2, 1].

    Args:
        logp_theta_N: nats, carries the gradient.
        logp_old_N: nats.
        advantages_N: credit.
        cap: largest weight, at least 1.
        floor: smallest weight, at most 1; published without one (0).

    Source: MiniMax-M1, arXiv 2506.13585 eq. 4; formulas [cispo], [stop-grad].
    """
    ratio_N = log_ratio(logp_theta_N.detach(), logp_old_N).exp()
    shares = {"capped_high": ratio_N > cap, "capped_low": ratio_N < floor}
    return TokenTerms(ratio_N.clamp(floor, cap) * reinforce(logp_theta_N, advantages_N), shares)


def dis(logp_theta_N: Tensor, logp_infer_N: Tensor, advantages_N: Tensor, *, eps_low: float, eps_high: float) -> TokenTerms:
    """``-sg(f(r_d)) A log pi`` per token `[N]`, f(r) = r where 1 - eps_low < r < 1 + eps_high, else 0 (double-sided).

    r_d = pi_theta / pi_infer: the sampler's own log-probabilities, no `old`. Rejected tokens stay in the denominator. The
    interval is open; ratios within 1e-9 nats of a bound count as on it and are dropped.
    eps .3 / 5: r = .69, .7, 1, 5.99, 6 weigh 0, 0, 1, 5.99, 0.

    Args:
        logp_theta_N: nats, carries the gradient.
        logp_infer_N: nats.
        advantages_N: credit.
        eps_low: above 0; 1 or more drops nothing below.
        eps_high: above 0.

    Source: GLM-5, arXiv 2602.15763; SAO, arXiv 2607.07508; formula [dis].
    """
    moved_N = log_ratio(logp_theta_N.detach(), logp_infer_N)
    low_N = torch.zeros_like(moved_N, dtype=torch.bool) if eps_low >= 1.0 else moved_N <= log(1.0 - eps_low) + TIE
    high_N = moved_N >= log(1.0 + eps_high) - TIE
    weight_N = torch.where(low_N | high_N, 0.0, moved_N.exp())
    return TokenTerms(weight_N * reinforce(logp_theta_N, advantages_N), {"clip_high": high_N, "clip_low": low_N})


class CISPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cispo"):
    """REINFORCE weighted with the truncated ratio.   See `cispo`."""

    cap: float = 1.28
    """Largest weight, at least 1; ScaleRL uses 5."""
    floor: float = 0.0
    """Smallest weight, in [0, 1]; 0 as published."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.floor <= 1.0 <= self.cap:
            raise ConfigError(f"cispo needs 0 <= floor <= 1 <= cap, got {self.floor!r} and {self.cap!r}")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `cispo` to theta against old."""
        theta_N, old_N = inputs.logp_theta_N, inputs.logp_old_N
        return cispo(theta_N, old_N, inputs.advantages_N, cap=self.cap, floor=self.floor)


class DISLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dis"):
    """REINFORCE weighted with the direct ratio where that is inside an interval.   See `dis`."""

    eps_low: float = 0.3
    """Tokens with a ratio of at most 1 minus this are dropped; above 0 (SAO: .3 for maths with tools, .8 for coding)."""
    eps_high: float = 5.0
    """Tokens with a ratio of at least 1 plus this are dropped; above 0 (SAO: 5 and 3)."""

    def __post_init__(self) -> None:
        if not (self.eps_low > 0.0 and self.eps_high > 0.0):
            raise ConfigError(f"dis needs eps_low and eps_high above 0, got {self.eps_low!r} and {self.eps_high!r}")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `dis` to theta against the sampler."""
        theta_N, infer_N = inputs.logp_theta_N, inputs.logp_infer_N
        return dis(theta_N, infer_N, inputs.advantages_N, eps_low=self.eps_low, eps_high=self.eps_high)
