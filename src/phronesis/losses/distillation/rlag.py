"""RLAG: prefer the answer given with retrieved knowledge to the one given without it, and the knowledge itself."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Augmented(NamedTuple):
    """`rlag_loss`'s outcome, per question `[B]`."""

    loss_B: Tensor
    """``-log sigma(argument)``."""
    argument_B: Tensor
    """The reward margin."""


def rlag_loss(
    knowledge_B: Tensor,
    augmented_B: Tensor,
    plain_B: Tensor,
    *,
    beta_d: float = 0.2,
    beta_a: float = 0.5,
    gamma: float = 8.0,
    chosen_max: float = -0.2,
    rejected_min: float = -5.0,
) -> Augmented:
    """``-log sigma(beta_d lp(knowledge) + beta_a lp(answer with it) - beta_a lp(answer without it) - gamma)`` per question.

    Each lp is the *mean* log-probability per token under the current policy, without the knowledge in the prompt. Chosen
    ones are clamped from above and the rejected one from below, so that neither is pushed further once it is good enough;
    a clamped one has no gradient. lp -1, -.5, -3 with gamma 8: argument -6.95, loss 6.950958, the linear regime.

    Args:
        knowledge_B: nats, mean log-probability of the retrieved text.
        augmented_B: nats, of the answer that was generated with it.
        plain_B: nats, of the answer that was generated without it.
        beta_d: weight of the knowledge; .5 where both answers agree.
        beta_a: weight of the answers; 0 where both agree.
        gamma: margin to reach.
        chosen_max: where the chosen ones are clamped; infinity means not at all.
        rejected_min: where the rejected one is clamped; minus infinity means not at all.

    Source: RLAG, arXiv 2509.20162; formula [rlag]. Which terms count as chosen for the clamp (knowledge and augmented
    answer) is our reading.
    """
    chosen_B = beta_d * knowledge_B.clamp(max=chosen_max) + beta_a * augmented_B.clamp(max=chosen_max)
    argument_B = chosen_B - beta_a * plain_B.clamp(min=rejected_min) - gamma
    return Augmented(-F.logsigmoid(argument_B), argument_B)
