"""DFT: cross-entropy whose tokens count by how likely the policy already finds them."""

from __future__ import annotations

from msgspec import Struct
from torch import Tensor

from phronesis.losses.inputs import LossInputs
from phronesis.losses.objectives.policy_gradient import TokenTerms


def dft_loss(logp_theta_N: Tensor) -> Tensor:
    """``-sg(pi) * log pi`` per token `[N]`: the gradient of cross-entropy times the token's own probability.

    Plain cross-entropy is a policy gradient with weight ``1 / pi``, which lets a few unlikely tokens dominate; the factor
    takes that weight away. pi = .3 gives .361192 and the coefficient .3.

    Source: Dynamic Fine-Tuning, arXiv 2508.05629; formula [dft].
    """
    return -logp_theta_N.detach().exp() * logp_theta_N


class DFTLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dft"):
    """DFT on the trained tokens; advantages are not read.   See `dft_loss`."""

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `dft_loss`."""
        return TokenTerms(dft_loss(inputs.logp_theta_N), {})
