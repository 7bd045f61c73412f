"""What all sides compute on: the same numbers in every environment, since Python's own generator draws them.

Shapes: B sequences in groups of `GROUP`, T positions, V tokens of a small vocabulary, P pairs. Everything is float64. The
mask has holes, as tool results leave them; every sequence has at least one token.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor

GROUPS, GROUP, LENGTH, VOCABULARY, PAIRS = 4, 4, 11, 7, 6

# Settings that both sides take; where a default differs, the table of `__main__.py` says so.
PPO = {"eps_low": 0.2, "eps_high": 0.28}
DUAL = 3.0
DELTA = 1.6
GSPO = {"eps_low": 0.04, "eps_high": 0.05}
GMPO_CLIP = 0.4
CISPO_CAP = 1.28
SAPO = {"tau_pos": 1.0, "tau_neg": 1.05}
VESPO = {"k_pos": 2.0, "lam_pos": 3.0, "k_neg": 3.0, "lam_neg": 2.0}
DPPO = 0.05
DRO_BETA = 0.1
COV = {"low": 0.02, "high": 0.6}
KL_COV = {"fraction": 0.1, "coef": 1.0}
KL_COEF = 0.07
TIS_CAP, SEQUENCE_CAP, SEQUENCE_MASK_CAP = 1.2, 1.4, 1.5
MIS = (0.8, 1.25)
GEOMETRIC = (0.9, 1.0 / 0.9)
K2, K3 = 0.03, 0.04
OPSM = 0.02
TOP_ENTROPY = 0.25
GAMMA, LAM = 0.97, 0.9
VALUE_CLIP = 0.2
BETA = 0.1
JSD_BETA = 0.3
SEEDS = (0, 1, 2, 3, 4)


class Inputs(NamedTuple):
    """One draw."""

    theta: Tensor
    """`[B, T]` nats, current policy."""
    old: Tensor
    """`[B, T]` nats, learner at the start of the update."""
    infer: Tensor
    """`[B, T]` nats, sampler."""
    ref: Tensor
    """`[B, T]` nats, reference."""
    mask: Tensor
    """`[B, T]` bool."""
    rewards: Tensor
    """`[B]` one number per sequence; multiples of 1/8, so that float32 holds them."""
    more: Tensor
    """`[B]` a second kind of reward, of another scale."""
    greedy: Tensor
    """`[B]` reward of a greedy answer."""
    advantages: Tensor
    """`[B]` of whole sequences, of either sign."""
    token_advantages: Tensor
    """`[B, T]` of single tokens."""
    token_rewards: Tensor
    """`[B, T]` 0 outside the mask."""
    values: Tensor
    """`[B, T]` of a critic."""
    new_values: Tensor
    """`[B, T]` of the critic after some steps."""
    returns: Tensor
    """`[B, T]` what it is to learn."""
    squares: Tensor
    """`[B, T]` sum of squared probabilities over the vocabulary."""
    entropies: Tensor
    """`[B, T]` nats."""
    student: Tensor
    """`[B, T, V]` logits."""
    teacher: Tensor
    """`[B, T, V]` logits."""
    chosen: Tensor
    """`[P]` sum of ``log pi - log ref`` of the better answer."""
    rejected: Tensor
    """`[P]` the same of the worse one."""

    @property
    def groups(self) -> list[int]:
        """`[B]` the group of each sequence."""
        return [i // GROUP for i in range(self.mask.shape[0])]


def draw(seed: int) -> Inputs:
    """Random inputs; log-ratios of about .3 nats, so that every clip is reached on both sides."""
    rng = random.Random(seed)
    rows = GROUPS * GROUP

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        count = 1
        for size in shape:
            count *= size
        return torch.tensor([rng.gauss(0.0, scale) for _ in range(count)], dtype=torch.float64).reshape(shape)

    old = -normal(rows, LENGTH).abs() - 0.05
    lengths = [rng.randint(1, LENGTH) for _ in range(rows)]
    mask = torch.tensor([[t < n and (t == n - 1 or rng.random() > 0.2) for t in range(LENGTH)] for n in lengths])
    rewards = torch.tensor([rng.randrange(9) / 8 for _ in range(rows)], dtype=torch.float64)
    more = torch.tensor([rng.randrange(5) for _ in range(rows)], dtype=torch.float64)
    student = normal(rows, LENGTH, VOCABULARY)
    return Inputs(
        theta=(old + normal(rows, LENGTH, scale=0.3)).clamp_max(-0.01),
        old=old,
        infer=(old + normal(rows, LENGTH, scale=0.15)).clamp_max(-0.01),
        ref=(old + normal(rows, LENGTH, scale=0.3)).clamp_max(-0.01),
        mask=mask,
        rewards=rewards,
        more=more,
        greedy=torch.tensor([rng.random() for _ in range(rows)], dtype=torch.float64),
        advantages=normal(rows),
        token_advantages=normal(rows, LENGTH),
        token_rewards=normal(rows, LENGTH) * mask,
        values=normal(rows, LENGTH),
        new_values=normal(rows, LENGTH),
        returns=normal(rows, LENGTH),
        squares=student.softmax(-1).square().sum(-1),
        entropies=normal(rows, LENGTH).abs(),
        student=student,
        teacher=normal(rows, LENGTH, VOCABULARY),
        chosen=normal(PAIRS),
        rejected=normal(PAIRS),
    )


def without_holes(given: Inputs) -> Inputs:
    """The same draw with every position up to a sequence's last token in the mask."""
    return given._replace(mask=given.mask.int().flip(1).cummax(1).values.flip(1).bool())


def last_token(mask: Tensor, numbers: Tensor) -> Tensor:
    """`[B, T]` with each sequence's number on its last token of the mask."""
    places = torch.arange(mask.shape[1]).expand_as(mask).masked_fill(~mask, -1).max(1).values
    return torch.zeros(mask.shape, dtype=numbers.dtype).scatter(1, places[:, None], numbers[:, None])


def differentiate(loss: Tensor, theta: Tensor) -> Tensor:
    """The loss and its gradient in one row, so that both are compared."""
    (gradient,) = torch.autograd.grad(loss, theta)
    return torch.cat((loss.detach().reshape(1), gradient.reshape(-1)))
