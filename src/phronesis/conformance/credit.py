"""Cases of credit assignment without a critic. NaN in a ragged list is padding and is dropped."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import isnan

from phronesis.conformance.case import Case, Expected, Inputs, Params
from phronesis.conformance.fields import Json
from phronesis.credit.baselines.group import AnyBaseline, GroupMean, GroupStandard
from phronesis.credit.judged.hindsight import hca
from phronesis.credit.judged.igpo import answer_probability, igpo
from phronesis.credit.judged.shapley import shapley
from phronesis.credit.judged.uncertainty import empg, uncertainty
from phronesis.credit.replays.counterfactual import loo_counterfactual
from phronesis.credit.replays.earl import earl_advantages
from phronesis.credit.replays.montecarlo import spo_chain, vineppo
from phronesis.credit.replays.stepwise import spae, vsrm
from phronesis.credit.trees.arpo import branching
from phronesis.credit.trees.search import best, puct
from phronesis.credit.trees.tree import Tree, sibling_advantages, tree_value
from phronesis.credit.turnwise.aspo import aspo
from phronesis.credit.turnwise.gigpo import gigpo
from phronesis.credit.turnwise.mt_grpo import mt_grpo
from phronesis.credit.turnwise.potential import discounted_sum, shaping
from phronesis.credit.turnwise.rewardflow import graph_values, step_rewards
from phronesis.credit.turnwise.turns import chain, tree_returns


def _kept(row: Sequence[float]) -> list[float]:
    return [v for v in row if not isnan(v)]


def _counted(row: Inputs) -> list[bool]:
    """Which steps of a trajectory there are: those its mask keeps, or whose reward is a number."""
    return row.flags("mask", [not isnan(x) for x in row.numbers("rewards")])


def _gigpo(inputs: Inputs, params: Params) -> Expected:
    rows = inputs.table("trajectories")
    kept = [_counted(r) for r in rows]
    rewards = [[x for x, k in zip(r.numbers("rewards"), keep, strict=True) if k] for r, keep in zip(rows, kept, strict=True)]
    gamma = params.number("gamma", 0.95)
    rule: AnyBaseline = GroupMean()
    if params.text("mode", "mean_norm") == "mean_std_norm":
        rule = GroupStandard(population=params.integer("ddof", 1) == 0, eps=params.number("eps", 1e-6))
    found = gigpo(
        [sum(r) for r in rewards],
        [tree_returns(r, chain(len(r)), gamma) for r in rewards],
        [[a for a, k in zip(r.keys("anchors"), keep, strict=True) if k] for r, keep in zip(rows, kept, strict=True)],
        omega=params.number("omega", 1.0),
        episode=rule,
        step=rule,
    )
    return {"episode": found.episode, "step": found.step, "total": found.total}


def _mt_grpo(inputs: Inputs, params: Params) -> Expected:
    answered = inputs.flags("tool_result") if "tool_result" in inputs else None
    found = mt_grpo(
        inputs.numbers("turn"),
        inputs.numbers("outcome"),
        lam=params.number("lam", 1.0),
        eps=params.number("eps", 1e-4),
        tool_result=answered,
    )
    return {"before": found.before, "after": found.after}


def _vineppo(inputs: Inputs, params: Params) -> Expected:
    returns = [_kept(row) for row in inputs.rows("mc_returns")]
    found = vineppo(returns, inputs.numbers("rewards"), params.number("gamma", 1.0))
    return {"values": found.values, "adv": found.advantages}


def _spo_chain(inputs: Inputs, params: Params) -> Expected:
    return {"adv": spo_chain(inputs.numbers("values"), inputs.number("score"))}


def _tree(value: Json) -> Tree:
    """A node; NaN among children is padding."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{value!r} is no tree")
    return [_tree(v) for v in value if not (isinstance(v, float) and isnan(v))]


def _children(inputs: Inputs) -> Sequence[Tree]:
    root = _tree(inputs.get("tree"))
    return [root] if isinstance(root, int | float) else root


def _below(node: Tree) -> object:
    """Leave-one-out among the children of a node, at every depth where they are leaves."""
    if isinstance(node, int | float):
        return 0.0
    if any(not isinstance(child, int | float) for child in node):
        return [_below(child) for child in node]
    return sibling_advantages([tree_value(child) for child in node])


def _spo_tree(inputs: Inputs, params: Params) -> Expected:
    children = _children(inputs)
    values = [tree_value(c) for c in children]
    return {
        "node_values": values,
        "leave_one_out": sibling_advantages(values),
        "leaf_leave_one_out": [_below(c) for c in children],
    }


def _treerpo(inputs: Inputs, params: Params) -> Expected:
    values = [tree_value(c) for c in _children(inputs)]
    return {
        "values": values,
        "deviation": sibling_advantages(values, against="siblings"),
        "z": sibling_advantages(values, against="siblings", scale=True),
    }


def _earl(inputs: Inputs, params: Params) -> Expected:
    return {"adv": earl_advantages(inputs.numbers("r_cf"), inputs.numbers("r_fact"))}


def _aspo(inputs: Inputs, params: Params) -> Expected:
    found = aspo(
        inputs.numbers("positions"),
        inputs.number("mean_length"),
        inputs.number("adv"),
        delta=params.number("delta", -2.0),
        k=params.number("k", 0.7),
    )
    return {"adv": found}


def _puct(inputs: Inputs, params: Params) -> Expected:
    scores = puct(inputs.numbers("Q"), inputs.numbers("prior"), inputs.numbers("N"), params.number("c", 1.5))
    return {"score": scores, "argmax": best(scores) if scores else None}


def _vsrm(inputs: Inputs, params: Params) -> Expected:
    found = vsrm(
        inputs.numbers("accuracy"),
        gamma=params.number("gamma", 0.7),
        window=params.integer("window", 1),
        tie=params.number("tie", 0.0),
    )
    return {"diff": found.diff, "reward": found.reward}


def _hca(inputs: Inputs, params: Params) -> Expected:
    return {"adv": hca(inputs.number("pi"), inputs.number("h"), inputs.number("ret"))}


def _shapley(inputs: Inputs, params: Params) -> Expected:
    given = inputs.fields("v")
    worths = {frozenset(int(i) for i in name.split(",") if i.strip()): given.number(name) for name in given.values}
    worths.setdefault(frozenset(), 0.0)
    return {"phi": shapley(inputs.integer("n"), worths.__getitem__)}


def _loo(inputs: Inputs, params: Params) -> Expected:
    return {"adv": loo_counterfactual(inputs.number("ret"), _kept(inputs.numbers("resampled")))}


def _arpo(inputs: Inputs, params: Params) -> Expected:
    found = branching(
        inputs.number("u"),
        inputs.number("delta_entropy"),
        weight=params.number("weight", 0.2),
        threshold=params.number("threshold", 0.5),
    )
    return {"p": found.p, "branch": found.branch}


def _igpo(inputs: Inputs, params: Params) -> Expected:
    p = [answer_probability(_kept(row)) for row in inputs.rows("gold_logprobs")]
    found = igpo(p, inputs.number("f1"), params.number("gamma", 1.0))
    return {"p": p, "rewards": found.rewards, "returns": found.returns}


def _pbs(inputs: Inputs, params: Params) -> Expected:
    gamma = params.number("gamma", 1.0)
    found = shaping(inputs.numbers("phi"), gamma)
    return {"F": found, "discounted_sum": discounted_sum(found, gamma)}


def _rewardflow(inputs: Inputs, params: Params) -> Expected:
    given, earned = inputs.fields("edges"), inputs.fields("rewards")
    edges: dict[Hashable, list[Hashable]] = {s: given.keys(s) for s in given.values}
    values = graph_values(edges, {s: earned.number(s) for s in earned.values}, params.number("gamma", 0.95))
    return {"V": values, "step_reward": {f"{s}->{t}": r for (s, t), r in step_rewards(edges, values).items()}}


def _spae(inputs: Inputs, params: Params) -> Expected:
    found = spae(inputs.numbers("acc"), inputs.numbers("conf"), threshold=params.number("threshold", 0.9))
    return {"phi": found.phi, "solved": found.solved}


def _empg(inputs: Inputs, params: Params) -> Expected:
    rows = inputs.rows("entropy")
    found = empg(
        [_kept(row) for row in rows],
        inputs.numbers("adv"),
        k=params.number("k", 1.0),
        k_f=params.number("k_f", 1.0),
        zeta=params.number("zeta", 0.1),
    )
    places = [iter(row) for row in found]
    return {"adv": [[0.0 if isnan(h) else next(at) for h in row] for row, at in zip(rows, places, strict=True)]}


def _selaur(inputs: Inputs, params: Params) -> Expected:
    return uncertainty(_kept(inputs.numbers("p")))._asdict()


TABLE: Mapping[str, Case] = {
    "gigpo": _gigpo,
    "mt-grpo": _mt_grpo,
    "vineppo": _vineppo,
    "spo-chain": _spo_chain,
    "spo-tree": _spo_tree,
    "treerpo": _treerpo,
    "earl-adv": _earl,
    "aspo": _aspo,
    "puct": _puct,
    "vsrm": _vsrm,
    "hca": _hca,
    "shapley": _shapley,
    "loo-counterfactual": _loo,
    "arpo": _arpo,
    "igpo": _igpo,
    "pbs": _pbs,
    "rewardflow": _rewardflow,
    "spae": _spae,
    "empg": _empg,
    "selaur": _selaur,
}
"""Formula ids of this area."""
