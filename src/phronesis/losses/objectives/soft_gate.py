"""SAPO: a smooth gate instead of a clip."""

from __future__ import annotations

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.inputs import LossInputs, log_ratio
from phronesis.losses.objectives.policy_gradient import TokenTerms


def sapo(logp_theta_N: Tensor, logp_old_N: Tensor, advantages_N: Tensor, *, tau_pos: float, tau_neg: float) -> TokenTerms:
    """``-A (4 / tau) sigma(tau (r - 1))`` per token `[N]`; tau_pos where A > 0, tau_neg elsewhere.

    The coefficient 4 sigma (1 - sigma) r is 1 at r = 1 and fades on both sides. The factor of A at r = 1 is 2 / tau;
    r = 1.2: 2.199336 (A > 0), 2.104030 (A < 0, tau 1.05). Meant for the mean over sequences of the token mean, and not to
    be combined with the decoupled loss.

    Source: SAPO, arXiv 2511.20347; formula [sapo].
    """
    ratio_N = log_ratio(logp_theta_N, logp_old_N).exp()
    # Two plain numbers would meet in float32.
    tau_N = torch.where(advantages_N > 0, ratio_N.new_tensor(tau_pos), ratio_N.new_tensor(tau_neg))
    return TokenTerms(-advantages_N * (4.0 / tau_N) * torch.sigmoid(tau_N * (ratio_N - 1.0)), {})


class SAPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sapo"):
    """Policy gradient with a soft gate.   See `sapo`."""

    tau_pos: float = 1.0
    """Steepness for positive advantages, above 0."""
    tau_neg: float = 1.05
    """Steepness for the others, above 0; larger fades faster."""

    def __post_init__(self) -> None:
        if not (self.tau_pos > 0.0 and self.tau_neg > 0.0):
            raise ConfigError(f"sapo needs tau_pos and tau_neg above 0, got {self.tau_pos!r} and {self.tau_neg!r}")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `sapo` to theta against old."""
        theta_N, old_N = inputs.logp_theta_N, inputs.logp_old_N
        return sapo(theta_N, old_N, inputs.advantages_N, tau_pos=self.tau_pos, tau_neg=self.tau_neg)
