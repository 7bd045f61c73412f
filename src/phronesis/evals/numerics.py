"""Three ways in which a probability ratio between sampler and learner is false although nothing was learned.

Stored at low precision, scored at another temperature, or scored without the sampler's truncation. Each function says by how
much, so that a measured mismatch can be recognised.   Source: formulas [bf16], [temp-ratio], [topp-ratio].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from phronesis.engine.sampler import Settings, draw, survivors
from phronesis.errors import ConfigError

_DIGITS = 8
_SMALLEST = -126
_LARGEST = 128
_TIE = 1e-12


class TemperatureRatio(NamedTuple):
    """A token scored at temperature 1 and at the temperature it was sampled with."""

    logp_one: float
    """Nats, at temperature 1."""
    logp: float
    """Nats, at the temperature asked for."""
    ratio: float
    """``exp(logp_one - logp)``: the probability ratio a learner sees that forgets the temperature; 1 would be right."""


class Truncation(NamedTuple):
    """What top-p does to a distribution."""

    kept: list[int]
    """Ids that survive, in order of their number."""
    probabilities: list[float]
    """Of the kept ids, renormalised."""
    token_ratio: float
    """Full over truncated probability of any kept token: the mass that is kept. 1 would be right."""

    def sequence_ratio(self, length: int) -> float:
        """The ratio of `length` such tokens in a row."""
        return self.token_ratio**length


def round_bf16(x: Tensor) -> Tensor:
    """The nearest bfloat16 numbers, as float64: 8 significant bits, ties to the even one.

    Rounded once; going through float32 would round twice. -12.34 gives -12.3125, 1.01171875 (a tie) 1.015625.
    Magnitudes from 2**128 on, after rounding, give infinity.
    """
    wide = x.double()
    exponent = torch.frexp(wide).exponent.clamp_min(_SMALLEST + 1)
    step = torch.ldexp(torch.ones_like(wide), exponent - _DIGITS)
    rounded = torch.where(wide.isfinite(), torch.round(wide / step) * step, wide)
    return torch.where(rounded.abs() >= 2.0**_LARGEST, torch.copysign(torch.full_like(wide, math.inf), wide), rounded)


def storage_ratio(logp_N: Tensor) -> Tensor:
    """False ratio ``exp(true - stored)`` per token `[N]` when log-probabilities are stored as bfloat16; 1 would be right.

    -12.34 is stored as -12.3125: .972875. In [8, 16) the spacing is .0625 nats, so a ratio is off by up to 3 %; keep
    log-probabilities in float32.
    """
    return torch.exp(logp_N.double() - round_bf16(logp_N))


def temperature_ratio(logits_V: Tensor, token: int, temperature: float) -> TemperatureRatio:
    """What forgetting the temperature does to one token's ratio, with the sampler's own arithmetic.

    Logits [2, 1, 0], token 0, temperature .7: -.407606, -.260118, ratio .862873.

    Raises:
        ConfigError: temperature not above 0, or no such token.
    """
    if not temperature > 0 or not 0 <= token < len(logits_V):
        raise ConfigError(f"need a temperature above 0 and a token below {len(logits_V)}, got {temperature!r} and {token!r}")
    logits_2V = logits_V.double().expand(2, -1)
    temperatures_21 = torch.tensor([[1.0], [temperature]], dtype=torch.float64)
    drawn = draw(logits_2V, torch.full((2,), 0.5), Settings(temperature_R1=temperatures_21), torch.full((2,), token))
    one, warm = float(drawn.logprobs_R[0]), float(drawn.logprobs_R[1])
    return TemperatureRatio(one, warm, math.exp(one - warm))


def truncation(p_V: Tensor, top_p: float) -> Truncation:
    """What nucleus sampling does to a distribution, by the sampler's own filter.

    [.6, .25, .1, .05] at .9 keeps three ids with mass .95: a learner that scores the full distribution sees the ratio .95 on
    every token, .005921 over 100 tokens, and always below 1; numerical noise would lie on both sides. Ids whose mass reaches
    `top_p` up to rounding are enough; ids of probability 0 are never kept.

    Args:
        p_V: probabilities.
        top_p: mass to keep, in (0, 1].

    Raises:
        ConfigError: top_p out of range.
    """
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p {top_p!r} must lie in (0, 1]")
    p_V = p_V.double()
    found = survivors(p_V.log()[None], Settings(top_p_R1=torch.tensor([[top_p * (1 - _TIE)]], dtype=torch.float64)))
    kept_V = (p_V > 0) & (torch.ones_like(p_V, dtype=torch.bool) if found is None else found[0])
    mass = float(p_V[kept_V].sum() / p_V.sum())
    kept = [i for i in range(len(p_V)) if bool(kept_V[i])]
    total = math.fsum(float(p_V[i]) for i in kept)
    return Truncation(kept, [float(p_V[i]) / total for i in kept], mass)
