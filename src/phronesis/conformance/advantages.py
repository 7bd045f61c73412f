"""Cases of advantages, baselines and what is sampled for them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch

from phronesis.conformance.case import Case, Expected, Inputs, Params
from phronesis.credit.baselines.batchwide import by_group, gdpo, gdpo_tokens, gpg, lite_ppo
from phronesis.credit.baselines.cells import by_cell, hierarchical
from phronesis.credit.baselines.group import Baseline, BestOnly, GroupMean, GroupStandard, LeaveOneOut, MaxRL, Singleton
from phronesis.credit.baselines.lengths import Lengths, opo, penalised
from phronesis.credit.baselines.optimal import otb
from phronesis.credit.baselines.remax import remax
from phronesis.credit.baselines.returns import reward_to_go
from phronesis.credit.baselines.role_baselines import rae
from phronesis.credit.baselines.whitening import reinforce_pp, whiten
from phronesis.credit.enumeration import estimator, expected_gradient
from phronesis.data.curriculum import keep_probability
from phronesis.losses.inputs import log_ratio
from phronesis.rewards.overlong import overlong
from phronesis.rewards.self_play import formatted_reward, proposal_reward
from phronesis.train.selection import is_fresh, repair_group


def _singleton(params: Params) -> Singleton:
    return "raw" if params.text("singleton", "zero") == "raw" else "zero"


def _labels(inputs: Inputs, n: int) -> list[Hashable]:
    """The group of each of `n` samples; one group when the case names none."""
    return inputs.keys("groups", [0] * n)


def _grouped(inputs: Inputs, baseline: Baseline) -> Expected:
    rewards = inputs.numbers("rewards")
    return {"adv": by_group(rewards, _labels(inputs, len(rewards)), baseline)}


def _standard(params: Params) -> GroupStandard:
    population = params.integer("ddof", 1) == 0
    return GroupStandard(population=population, eps=params.number("eps", 1e-6), singleton=_singleton(params))


def _rloo(inputs: Inputs, params: Params) -> Expected:
    return _grouped(inputs, LeaveOneOut(singleton=_singleton(params)))


def _drgrpo(inputs: Inputs, params: Params) -> Expected:
    return _grouped(inputs, GroupMean(singleton=_singleton(params)))


def _grpo(inputs: Inputs, params: Params) -> Expected:
    return _grouped(inputs, _standard(params))


def _maxrl(inputs: Inputs, params: Params) -> Expected:
    return _grouped(inputs, MaxRL(singleton=_singleton(params)))


def _passk(inputs: Inputs, params: Params) -> Expected:
    return _grouped(inputs, BestOnly(eps=params.number("eps", 1e-6), singleton=_singleton(params)))


def _reinforce_rtg(inputs: Inputs, params: Params) -> Expected:
    rewards = inputs.numbers("rewards")
    mask = inputs.flags("mask", [True] * len(rewards))
    return {"returns": reward_to_go(rewards, params.number("gamma", 1.0), mask)}


def _whiten(inputs: Inputs, params: Params) -> Expected:
    rows = inputs.rows("x")
    return {"out": whiten(rows, inputs.masks("mask", _all(rows)), eps=params.number("eps", 1e-8))}


def _all(rows: Sequence[Sequence[float]]) -> list[list[bool]]:
    return [[True] * len(row) for row in rows]


def _rfpp(inputs: Inputs, params: Params) -> Expected:
    k1 = inputs.rows("k1")
    found = reinforce_pp(
        inputs.numbers("scores"),
        k1,
        inputs.masks("mask", _all(k1)),
        beta=params.number("beta", 0.0),
        gamma=params.number("gamma", 1.0),
        eps=params.number("whiten_eps", 1e-8),
    )
    return {"adv": found}


def _nested_mask(inputs: Inputs) -> bool:
    mask = inputs.get("mask")
    return isinstance(mask, Sequence) and any(isinstance(row, Sequence) for row in mask)


def _rfpp_baseline(inputs: Inputs, params: Params) -> Expected:
    rewards = inputs.numbers("rewards")
    lengths = inputs.integers("lengths", [1] * len(rewards))
    if _nested_mask(inputs):  # then the given lengths may be those of what counts
        lengths = [len(row) for row in inputs.masks("mask")]
    centred = by_group(rewards, _labels(inputs, len(rewards)), GroupMean(singleton=_singleton(params)))
    rows = [[a] * n for a, n in zip(centred, lengths, strict=True)]
    return {"adv": whiten(rows, inputs.masks("mask", _all(rows)), eps=params.number("whiten_eps", 1e-8))}


def _lite_ppo(inputs: Inputs, params: Params) -> Expected:
    rewards = inputs.numbers("rewards")
    return {"adv": lite_ppo(rewards, _labels(inputs, len(rewards)), eps=params.number("eps", 1e-6))}


def _remax(inputs: Inputs, params: Params) -> Expected:
    return {"adv": remax(inputs.numbers("rewards"), inputs.numbers("greedy"))}


def _opo(inputs: Inputs, params: Params) -> Expected:
    rewards, lengths = inputs.numbers("rewards"), inputs.integers("lengths")
    baseline, advantages = [0.0] * len(rewards), [0.0] * len(rewards)
    for places in _places(_labels(inputs, len(rewards))):
        found = opo([rewards[i] for i in places], [lengths[i] for i in places])
        for i, advantage in zip(places, found.advantages, strict=True):
            baseline[i], advantages[i] = found.baseline, advantage
    return {"baseline": baseline, "adv": advantages}


def _places(labels: Sequence[Hashable]) -> list[list[int]]:
    """Indices of each group's samples."""
    found: dict[Hashable, list[int]] = {}
    for i, label in enumerate(labels):
        found.setdefault(label, []).append(i)
    return list(found.values())


def _gpg(inputs: Inputs, params: Params) -> Expected:
    rewards = inputs.numbers("rewards")
    found = gpg(rewards, _labels(inputs, len(rewards)))
    return {"alpha": found.alpha, "adv": found.advantages}


def _gdpo(inputs: Inputs, params: Params) -> Expected:
    rewards = inputs.rows("rewards")
    labels = _labels(inputs, len(rewards[0]) if rewards else 0)
    weights = inputs.numbers("weights", [1.0] * len(rewards))
    eps = params.number("eps", 1e-6)
    found = gdpo(rewards, labels, weights, eps=eps, batch_eps=params.number("batch_eps", 1e-6))
    if params.text("level", "sample") == "token":
        whitened = gdpo_tokens(found.summed, inputs.integers("lengths"), eps=params.number("whiten_eps", 1e-8))
        return {"summed": found.summed, "adv": whitened}
    return {"summed": found.summed, "adv": found.advantages}


def _rae(inputs: Inputs, params: Params) -> Expected:
    decay, start = params.number("decay", 0.95), params.number("b0", 0.0)
    found = rae(inputs.keys("agents"), inputs.numbers("rewards"), decay=decay, start=start)
    return {"adv": found.advantages, "baselines": found.baselines}


def _hier_grpo(inputs: Inputs, params: Params) -> Expected:
    found = hierarchical(inputs.rows("solver"), inputs.numbers("proposer"))
    return {"solver_adv": found.solver, "proposer_adv": found.proposer}


def _trrpp(inputs: Inputs, params: Params) -> Expected:
    return {"adv": by_cell(inputs.numbers("rewards"), inputs.keys("cells"), baseline=_standard(params))}


def _len_penalty(inputs: Inputs, params: Params) -> Expected:
    rewards = inputs.numbers("rewards")
    none = [0.0] * len(rewards)
    columns = [inputs.numbers(name, none) for name in ("output_tokens", "input_tokens", "turns")]
    lengths = [Lengths(*row) for row in zip(*columns, strict=True)]
    weights = Lengths(*(params.number(name, 0.0) for name in ("w_output", "w_input", "w_turns")))
    advantages = [0.0] * len(rewards)
    for places in _places(_labels(inputs, len(rewards))):
        found = penalised([rewards[i] for i in places], [lengths[i] for i in places], weights)
        for i, advantage in zip(places, found, strict=True):
            advantages[i] = advantage
    return {"adv": advantages}


def _group_repair(inputs: Inputs, params: Params) -> Expected:
    found = repair_group(inputs.keys("valid"), inputs.integer("group_size"))
    return {"dropped": found is None, "members": found or []}


def _otb(inputs: Inputs, params: Params) -> Expected:
    rewards, pi, squares = inputs.rows("rewards"), inputs.rows("pi"), inputs.rows("sum_pi_sq")
    weights = inputs.rows("weights", [[1.0] * len(row) for row in pi])
    mask = inputs.masks("mask", _all(rewards))
    columns = [_kept(rows, mask) for rows in (rewards, pi, squares, weights)]
    advantages = _all_zero(rewards)
    for places in _places(_labels(inputs, len(rewards))):
        group = [[column[i] for i in places] for column in columns]
        found = otb(group[0], group[1], group[2], group[3], eps=params.number("eps", 1e-8))
        for i, row in zip(places, found, strict=True):
            for t, advantage in zip((t for t, k in enumerate(mask[i]) if k), row, strict=True):
                advantages[i][t] = advantage
    return {"adv": advantages}


def _kept(rows: Sequence[Sequence[float]], mask: Sequence[Sequence[bool]]) -> list[list[float]]:
    return [[x for x, k in zip(row, kept, strict=True) if k] for row, kept in zip(rows, mask, strict=True)]


def _all_zero(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[0.0] * len(row) for row in rows]


def _overlong(inputs: Inputs, params: Params) -> Expected:
    longest, cushion = params.integer("l_max"), params.integer("l_cache")
    return {"penalty": [overlong(n, longest, cushion) for n in inputs.integers("lengths")]}


def _keep_prob(inputs: Inputs, params: Params) -> Expected:
    return {"prob": keep_probability(inputs.integer("group_size"), inputs.number("p"))}


def _staleness(inputs: Inputs, params: Params) -> Expected:
    current, limit = inputs.integer("current"), params.integer("tau")
    return {"keep": [is_fresh([int(v) for v in row], current, limit) for row in inputs.rows("versions")]}


def _enum_grad(inputs: Inputs, params: Params) -> Expected:
    rule = estimator(params.text("estimator", "rloo"))
    return {"expected_grad": expected_gradient(rule, inputs.integer("n"), inputs.number("p"))}


def _ratio(inputs: Inputs, params: Params) -> Expected:
    infer, old, theta = (torch.tensor(inputs.numbers(n), dtype=torch.float64) for n in ("infer", "old", "theta"))
    return {
        "rho": log_ratio(old, infer).exp(),
        "r": log_ratio(theta, old).exp(),
        "r_d": log_ratio(theta, infer).exp(),
    }


def _azr_propose(inputs: Inputs, params: Params) -> Expected:
    return {"reward": [proposal_reward(rate) for rate in inputs.numbers("accuracy")]}


def _azr_composite(inputs: Inputs, params: Params) -> Expected:
    pairs = zip(inputs.numbers("reward"), inputs.flags("formatted"), strict=True)
    return {"out": [formatted_reward(reward, formatted=formatted) for reward, formatted in pairs]}


TABLE: Mapping[str, Case] = {
    "ratio": _ratio,
    "whiten": _whiten,
    "reinforce-rtg": _reinforce_rtg,
    "rloo": _rloo,
    "grpo": _grpo,
    "drgrpo": _drgrpo,
    "rfpp": _rfpp,
    "rfpp-baseline": _rfpp_baseline,
    "lite-ppo": _lite_ppo,
    "remax": _remax,
    "opo": _opo,
    "passk-adv": _passk,
    "gpg": _gpg,
    "gdpo": _gdpo,
    "otb": _otb,
    "maxrl": _maxrl,
    "rae": _rae,
    "hier-grpo": _hier_grpo,
    "len-penalty": _len_penalty,
    "group-repair": _group_repair,
    "overlong": _overlong,
    "keep-prob": _keep_prob,
    "staleness": _staleness,
    "enum-grad": _enum_grad,
    "trrpp": _trrpp,
    "azr-propose": _azr_propose,
    "azr-composite": _azr_composite,
}
"""Formula ids of this area."""
