"""Cases of advantages and baselines."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from phronesis.conformance.case import Case, Expected, Inputs, Params
from phronesis.credit.advantages import GroupMean, GroupStandard, LeaveOneOut, Singleton


def grouped(
    values: Sequence[float], groups: Sequence[Hashable], rule: Callable[[Sequence[float]], Sequence[float]]
) -> list[float]:
    """Applies a rule to each group apart and puts the results back in order."""
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    found = [0.0] * len(values)
    for places in members.values():
        for i, value in zip(places, rule([values[i] for i in places]), strict=True):
            found[i] = value
    return found


def _singleton(params: Params) -> Singleton:
    return "raw" if params.text("singleton", "zero") == "raw" else "zero"


def _groups(inputs: Inputs, rewards: Sequence[float]) -> list[Hashable]:
    return inputs.keys("groups", [0] * len(rewards))


def _rloo(inputs: Inputs, params: Params) -> Expected:
    rewards = inputs.numbers("rewards")
    return {"adv": grouped(rewards, _groups(inputs, rewards), LeaveOneOut(singleton=_singleton(params)).advantages)}


def _drgrpo(inputs: Inputs, params: Params) -> Expected:
    rewards = inputs.numbers("rewards")
    return {"adv": grouped(rewards, _groups(inputs, rewards), GroupMean(singleton=_singleton(params)).advantages)}


def _grpo(inputs: Inputs, params: Params) -> Expected:
    rewards = inputs.numbers("rewards")
    rule = GroupStandard(
        population=params.integer("ddof", 1) == 0, eps=params.number("eps", 1e-6), singleton=_singleton(params)
    )
    return {"adv": grouped(rewards, _groups(inputs, rewards), rule.advantages)}


TABLE: Mapping[str, Case] = {
    "rloo": _rloo,
    "drgrpo": _drgrpo,
    "grpo": _grpo,
}
"""Formula ids of this area."""
