"""Cases of critics: advantages over values, and how values are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from phronesis.conformance.case import Case, Expected, Inputs, Params
from phronesis.credit.critics.archer import archer_advantages, archer_targets
from phronesis.credit.critics.gae import gae, gae_skip, lambda_len
from phronesis.credit.critics.poad import ntpo, poad
from phronesis.losses.value import value_clip, value_loss


def _gae(inputs: Inputs, params: Params) -> Expected:
    values, rewards = inputs.numbers("values"), inputs.numbers("rewards")
    gamma, lam = params.number("gamma", 1.0), params.number("lam", 0.95)
    if "mask" in inputs:
        found = gae_skip(values, rewards, inputs.flags("mask"), gamma=gamma, lam=lam)
    else:
        found = gae(values, rewards, gamma=gamma, lam=lam)
    return {"adv": found.advantages, "returns": found.returns}


def _lambda_len(inputs: Inputs, params: Params) -> Expected:
    alpha = params.number("alpha", 1.5)
    return {"lam": [lambda_len(length, alpha) for length in inputs.integers("lengths")]}


def _value_clip(inputs: Inputs, params: Params) -> Expected:
    values, old, returns = (torch.tensor(inputs.numbers(n), dtype=torch.float64) for n in ("v", "v_old", "returns"))
    mask = torch.tensor(inputs.flags("mask", [True] * len(values)), dtype=torch.bool)
    terms = value_clip(values, old, returns, clip=params.number("clip", 0.2), mask_N=mask)
    return {"per_token": terms.loss_N, "loss": float(value_loss(terms, mask_N=mask))}


def _poad(inputs: Inputs, params: Params) -> Expected:
    gamma, lam = params.number("gamma", 0.99), params.number("lam", 0.95)
    return {"adv": poad(inputs.rows("values"), inputs.numbers("rewards"), gamma=gamma, lam=lam)}


def _ntpo(inputs: Inputs, params: Params) -> Expected:
    gamma, lam = params.number("gamma", 0.99), params.number("lam", 0.95)
    return {"adv": ntpo(inputs.rows("values"), inputs.numbers("rewards"), gamma=gamma, lam=lam)}


def _archer(inputs: Inputs, params: Params) -> Expected:
    done = inputs.flags("done") if _listed(inputs, "done") else [inputs.flag("done", False)]
    rewards, ahead = (_stretched(inputs, name, len(done)) for name in ("r", "v_next"))
    targets = archer_targets(rewards, done, ahead, gamma=params.number("gamma", 0.9))
    several = any(_listed(inputs, name) for name in ("q1", "q2", "v1", "v2"))
    n = max(len(inputs.numbers(name)) for name in ("q1", "q2", "v1", "v2") if _listed(inputs, name)) if several else 1
    q1, q2, v1, v2 = (_stretched(inputs, name, n) for name in ("q1", "q2", "v1", "v2"))
    advantages = archer_advantages(q1, q2, v1, v2)
    return {"q_target": targets if _listed(inputs, "done") else targets[0], "adv": advantages if several else advantages[0]}


def _listed(inputs: Inputs, name: str) -> bool:
    value = inputs.get(name)
    return isinstance(value, Sequence) and not isinstance(value, str)


def _stretched(inputs: Inputs, name: str, n: int) -> list[float]:
    """A list as it is, one number n times."""
    return inputs.numbers(name) if _listed(inputs, name) else [inputs.number(name)] * n


TABLE: Mapping[str, Case] = {
    "gae": _gae,
    "gae-skip": _gae,
    "lambda-len": _lambda_len,
    "value-clip": _value_clip,
    "poad": _poad,
    "ntpo": _ntpo,
    "archer": _archer,
}
"""Formula ids of this area."""
