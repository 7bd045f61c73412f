"""Step-APO: DPO on single steps whose margin is the difference of the steps' values."""

from __future__ import annotations

from msgspec import Struct
from torch import Tensor
from torch.nn import functional as F

from phronesis.errors import ConfigError
from phronesis.losses.preference.pairs import Pairs


def step_apo_margin(
    chosen_P: Tensor, rejected_P: Tensor, chosen_values_P: Tensor, rejected_values_P: Tensor, *, beta: float
) -> Tensor:
    """``beta chosen - V_chosen - beta rejected + V_rejected`` per pair `[P]`: what `step_apo_loss` makes positive.

    beta .1, sides .5 and -.3, values .8 and .2: -.52.
    """
    return beta * (chosen_P - rejected_P) - chosen_values_P + rejected_values_P


def step_apo_loss(
    chosen_P: Tensor, rejected_P: Tensor, chosen_values_P: Tensor, rejected_values_P: Tensor, *, beta: float
) -> Tensor:
    """``-log sigma(beta chosen - V_chosen - beta rejected + V_rejected)`` per pair of steps `[P]`.

    Each side is its sum of ``log pi - log ref``, each value that of the state after the step (by Monte-Carlo, say). The
    further apart the values, the larger the margin the policy must reach. beta .1, sides .5 and -.3, values .8 and .2:
    argument -.52, loss .986573; with values 0 it is Step-DPO, .653947.

    Source: arXiv 2409.08642; formula [step-apo].
    """
    return -F.logsigmoid(step_apo_margin(chosen_P, rejected_P, chosen_values_P, rejected_values_P, beta=beta))


class StepAPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="step_apo"):
    """Step-APO.   See `step_apo_loss`."""

    beta: float = 0.1
    """Strength of the pull towards the reference, above 0."""

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ConfigError(f"step_apo beta {self.beta!r} must be above 0")

    def losses(self, pairs: Pairs) -> Tensor:
        """Applies `step_apo_loss`."""
        return step_apo_loss(pairs.chosen_P, pairs.rejected_P, pairs.chosen_values_P, pairs.rejected_values_P, beta=self.beta)
