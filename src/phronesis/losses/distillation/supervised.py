"""Supervised learning: make the trained tokens more likely."""

from __future__ import annotations

from msgspec import Struct
from torch import Tensor

from phronesis.losses.inputs import LossInputs
from phronesis.losses.objectives.policy_gradient import TokenTerms


def negative_log_likelihood(logp_theta_N: Tensor) -> Tensor:
    """``-log pi`` per token `[N]`; its token mean is the usual cross-entropy.   Formula [sft].

    Log-probabilities [-.5, -1.5] and [-2, -.25] of two traces: token mean 1.0625.
    """
    return -logp_theta_N


class SupervisedLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="supervised"):
    """Cross-entropy on the trained tokens; advantages are not read."""

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `negative_log_likelihood`."""
        return TokenTerms(negative_log_likelihood(inputs.logp_theta_N), {})
