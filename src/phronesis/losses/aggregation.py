"""From per-token losses to one number: ways to weigh tokens, turns, contexts and episodes, all with the step's denominators.

A sequence is an episode. Every aggregation is a weight per token, so `loss = sum(weight * token_loss)` and micro-batches add
up exactly. With token losses y1 = [1, 1] and y2 = [.5, .5, .5, .5]: token mean 2/3, mean of sequence means .75, mean of
sequence sums 2, mean of sequence sums over a horizon of 4: .5.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.inputs import LossInputs, Scope, masked_sum
from phronesis.losses.sequences import units


class AggregationRule(Protocol):
    """How much each token counts."""

    def weights(self, inputs: LossInputs) -> Tensor | float:
        """`[N]`, or one number for all tokens; finite also when nothing is trained."""
        ...


class TokenMean(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="token_mean"):
    """Mean over all trained tokens of the step: long sequences count more.   Source: DAPO, arXiv 2503.14476 eq. 8."""

    def weights(self, inputs: LossInputs) -> float:
        """``1 / tokens``."""
        return 1.0 / max(inputs.totals.tokens, 1)


class SequenceMeanTokenMean(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sequence_mean_token_mean"):
    """Mean over sequences of the mean over their tokens: a token of a long sequence counts less.

    Source: GRPO, arXiv 2402.03300 eq. 3.
    """

    def weights(self, inputs: LossInputs) -> Tensor:
        """``1 / (sequences * tokens of the token's sequence)``."""
        tokens_N = inputs.totals.tokens_S.clamp_min(1)[inputs.sequence_N]
        return torch.reciprocal(tokens_N.to(inputs.logp_theta_N.dtype) * max(inputs.totals.sequences, 1))


class SequenceMeanTokenSum(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sequence_mean_token_sum"):
    """Mean over sequences of the sum over their tokens: the policy gradient without length normalisation."""

    def weights(self, inputs: LossInputs) -> float:
        """``1 / sequences``."""
        return 1.0 / max(inputs.totals.sequences, 1)


class ConstantNorm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="constant_norm"):
    """Mean over sequences of the sum over their tokens, divided by a constant horizon: unbiased, and independent of the batch.

    Source: Dr.GRPO, arXiv 2503.20783.
    """

    horizon: int
    """Tokens a sequence may have; keep it constant over a run, it scales the learning rate. At least 1."""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ConfigError(f"aggregation horizon {self.horizon!r} must be at least 1")

    def weights(self, inputs: LossInputs) -> float:
        """``1 / (horizon * sequences)``."""
        return 1.0 / (self.horizon * max(inputs.totals.sequences, 1))


class TurnMeanTokenMean(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="turn_mean_token_mean"):
    """Mean over all turns of the step of the mean over their tokens: long thoughts do not drown short actions.

    Losses [1, 1 | 4] of a sequence of two turns and [.5] of one of one turn: (1 + 4 + .5) / 3 = 1.833333.
    """

    scope: ClassVar[Scope] = "sequence"
    """A token's loss depends on its sequence."""

    def weights(self, inputs: LossInputs) -> Tensor:
        """``1 / (turns * tokens of the token's turn)``."""
        tokens_N = units(inputs, inputs.turn_N).tokens_N.to(inputs.logp_theta_N.dtype)
        return torch.reciprocal(tokens_N * max(inputs.totals.turns, 1))


class SequenceMeanTurnMean(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sequence_mean_turn_mean"):
    """Mean over episodes of the mean over their turns of the mean over tokens: neither chatter nor many turns count more.

    Losses [1, 1 | 4] of a sequence of two turns and [.5] of one of one turn: (2.5 + .5) / 2 = 1.5.
    """

    scope: ClassVar[Scope] = "sequence"
    """A token's loss depends on its sequence."""

    def weights(self, inputs: LossInputs) -> Tensor:
        """``1 / (sequences * turns of the token's sequence * tokens of its turn)``."""
        return _nested(inputs, inputs.turn_N)


class SequenceMeanTraceMean(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sequence_mean_trace_mean"):
    """Mean over episodes of the mean over their separate contexts (sub-traces) of the mean over tokens.

    Where compaction splits an episode into n contexts, each weighs 1/n; else chatty episodes would count n times.
    Rollouts [[1, 1], [3]] and [[2, 4, 6]]: (2 + 4) / 2 = 3.   Formula [agg-trajectory].
    """

    scope: ClassVar[Scope] = "sequence"
    """A token's loss depends on its sequence."""

    def weights(self, inputs: LossInputs) -> Tensor:
        """``1 / (sequences * contexts of the token's sequence * tokens of its context)``."""
        return _nested(inputs, torch.zeros_like(inputs.sequence_N) if inputs.trace_N is None else inputs.trace_N)


Aggregation = (
    TokenMean
    | SequenceMeanTokenMean
    | SequenceMeanTokenSum
    | ConstantNorm
    | TurnMeanTokenMean
    | SequenceMeanTurnMean
    | SequenceMeanTraceMean
)
"""The built-in aggregations, told apart by their tag in configs."""


def aggregate(token_loss_N: Tensor, inputs: LossInputs, rule: AggregationRule) -> Tensor:
    """One number from per-token losses; masked tokens and sequences without trained tokens do not count, nothing gives 0.

    Denominators are those of the whole step, whatever part of it is at hand.   Formulas [agg], [agg-global].
    """
    return masked_sum(token_loss_N * rule.weights(inputs), inputs.mask_N)


def _nested(inputs: LossInputs, part_N: Tensor) -> Tensor:
    found = units(inputs, part_N)
    shares_N = found.tokens_N * found.units_S.clamp_min(1)[inputs.sequence_N]
    return torch.reciprocal(shares_N.to(inputs.logp_theta_N.dtype) * max(inputs.totals.sequences, 1))
