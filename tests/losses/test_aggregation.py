"""Aggregations against worked numbers."""

import pytest
import torch
from torch import tensor

from phronesis.errors import ConfigError
from phronesis.losses import (
    ConstantNorm,
    LossInputs,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
    aggregate,
    totals_of,
)


def inputs(sequence, mask=None, sequences=None):
    sequence = tensor(sequence)
    zeros = torch.zeros(sequence.numel(), dtype=torch.float64)
    mask = None if mask is None else tensor(mask)
    totals = totals_of(sequence, sequences or int(sequence.max()) + 1, mask)
    return LossInputs(zeros, zeros, zeros, zeros, sequence, torch.zeros_like(sequence), totals, mask_N=mask)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (TokenMean(), 2 / 3),
        (SequenceMeanTokenMean(), 0.75),
        (SequenceMeanTokenSum(), 2.0),
        (ConstantNorm(horizon=4), 0.5),
        (ConstantNorm(horizon=8), 0.25),
    ],
)
def test_two_sequences(rule, expected):
    losses = tensor([1.0, 1.0, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64)
    assert aggregate(losses, inputs([0, 0, 1, 1, 1, 1]), rule).item() == pytest.approx(expected)


def test_ragged_token_mean():
    losses = tensor([2.0, -1, 3, 0.5, 4, 0, 0, 0, 1], dtype=torch.float64)
    assert aggregate(losses, inputs([0, 0, 0, 1, 2, 2, 2, 2, 2]), TokenMean()).item() == pytest.approx(19 / 18)


def test_global_denominators_and_a_fully_masked_sequence():
    losses = tensor([1.0, 2, 4, 3, 0, 6, 5, 5], dtype=torch.float64)
    mask = [True, True, True, True, True, False, False, False]
    whole = inputs([0, 0, 1, 2, 2, 2, 3, 3], mask, 4)
    assert whole.totals.tokens == 5 and whole.totals.sequences == 3
    parts = [tensor([0, 1]), tensor([2, 3, 4, 5]), tensor([6, 7])]
    for rule, expected in ((TokenMean(), [0.6, 1.4, 0.0]), (SequenceMeanTokenMean(), [0.5, 1.8333333333, 0.0])):
        found = []
        for index in parts:
            part = whole._replace(
                logp_theta_N=whole.logp_theta_N[index], sequence_N=whole.sequence_N[index], mask_N=whole.mask_N[index]
            )
            found.append(aggregate(losses[index], part, rule).item())
        assert found == pytest.approx(expected)


def test_horizon_must_be_positive():
    with pytest.raises(ConfigError, match="horizon"):
        ConstantNorm(horizon=0)
