"""Cases of credit assignment: worked numbers of the sources, then ragged, tied, constant, padded and empty ones."""

import pytest

from phronesis.conformance import credit
from phronesis.conformance.case import Question
from phronesis.conformance.runner import answer

HALF = 0.5 / 0.5**0.5

CASES = [
    (
        "gigpo",
        {"trajectories": [{"anchors": ["a", "b"], "rewards": [0, 1]}, {"anchors": ["a"], "rewards": [0]}]},
        {"gamma": 0.5, "omega": 2.0},
        {"episode": [0.5, -0.5], "step": [[0.25, 0], [-0.25]], "total": [[1.0, 0.5], [-1.0]]},
    ),
    (
        "gigpo",
        {"trajectories": [{"anchors": ["a", "b"], "rewards": [0, 1]}, {"anchors": ["a"], "rewards": [0]}]},
        {"gamma": 0.5, "mode": "mean_std_norm"},
        {"episode": [HALF, -HALF], "step": [[HALF, 0], [-HALF]], "total": [[2 * HALF, HALF], [-2 * HALF]]},
    ),
    (
        "gigpo",  # the first anchors differ, a state is met twice by one trace, a lone trace, an empty one
        {"trajectories": [{"anchors": ["a", "a"], "rewards": [1, 0]}, {"anchors": [], "rewards": []}]},
        {"gamma": 1.0},
        {"episode": [0.5, -0.5], "step": [[0.5, -0.5], []], "total": [[1.0, 0.0], []]},
    ),
    ("gigpo", {"trajectories": []}, {}, {"episode": [], "step": [], "total": []}),
    ("gigpo", {"trajectories": [{"anchors": ["x"], "rewards": [3]}]}, {}, {"episode": [0], "step": [[0]], "total": [[0]]}),
    (
        "mt-grpo",
        {"turn": [1, 0], "outcome": [2, 2]},
        {"lam": 2.0, "eps": 1e-9},
        {"before": [2 * HALF, -2 * HALF], "after": [0, 0]},
    ),
    ("mt-grpo", {"turn": [1, 1, 1], "outcome": [0, 0, 0]}, {}, {"before": [0, 0, 0], "after": [0, 0, 0]}),
    (
        "mt-grpo",
        {"turn": [1, 0], "outcome": [1, 1], "tool_result": [1, 0]},
        {"eps": 1e-9},
        {"before": [HALF, -HALF], "after": [0, -HALF]},
    ),
    ("vineppo", {"mc_returns": [[1, 0, "nan"], [1]], "rewards": [0, 1]}, {}, {"values": [0.5, 1], "adv": [0.5, 0]}),
    ("vineppo", {"mc_returns": [], "rewards": []}, {}, {"values": [], "adv": []}),
    ("vineppo", {"mc_returns": [[1], [2]], "rewards": [0, 1]}, {"gamma": 0.5}, {"values": [1, 2], "adv": [0, -1]}),
    ("spo-chain", {"values": [0.25, 0.5, 0.75], "score": 1}, {}, {"adv": [0.25, 0.25, 0.25]}),
    ("spo-chain", {"values": [], "score": 1}, {}, {"adv": []}),
    (
        "spo-tree",
        {"tree": [[1, 0, "nan"], [1], [[1, 0], [0]]]},
        {},
        {
            "node_values": [0.5, 1, 0.25],
            "leave_one_out": [0.5 - 0.625, 1 - 0.375, 0.25 - 0.75],
            "leaf_leave_one_out": [[1, -1], [0], [[1, -1], [0]]],
        },
    ),
    ("treerpo", {"tree": [[1, 0], [1, 1]]}, {}, {"values": [0.5, 1], "deviation": [-0.25, 0.25], "z": [-0.707105, 0.707105]}),
    ("treerpo", {"tree": [[1, 1], [1]]}, {}, {"values": [1, 1], "deviation": [0, 0], "z": [0, 0]}),
    ("earl-adv", {"r_cf": [1, 0], "r_fact": [0, 0.5]}, {}, {"adv": [1, -0.5]}),
    ("aspo", {"positions": [10, 30, 50], "mean_length": 100, "adv": 0.5}, {"delta": -2, "k": 0.7}, {"adv": [0.85, 0.5, 0.15]}),
    ("aspo", {"positions": [7], "mean_length": 9, "adv": 0.5}, {}, {"adv": [0.5]}),
    ("puct", {"Q": [0.5, 0.95], "prior": [0.3, 0], "N": [3, 13]}, {"c": 1.5}, {"score": [0.95, 0.95], "argmax": 0}),
    ("puct", {"Q": [0, 0], "prior": [0.5, 0.5], "N": [0, 0]}, {}, {"score": [0, 0], "argmax": 0}),
    (
        "vsrm",
        {"accuracy": [0.25, 0.25, 0.75, 0.75]},
        {"gamma": 0.7, "window": 1},
        {"diff": [0, 0.5, 0], "reward": [0.35, 0.5, 0]},
    ),
    ("vsrm", {"accuracy": [0.5]}, {}, {"diff": [], "reward": []}),
    ("hca", {"pi": 0.2, "h": 0.4, "ret": 1}, {}, {"adv": 0.5}),
    ("shapley", {"n": 2, "v": {"0": 0.2, "1": 0.4, "0,1": 1}}, {}, {"phi": [0.4, 0.6]}),
    ("shapley", {"n": 2, "v": {"": 0.5, "0": 0.5, "1": 0.5, "0,1": 0.5}}, {}, {"phi": [0, 0]}),
    ("loo-counterfactual", {"ret": 1, "resampled": [0, 1, "nan"]}, {}, {"adv": 0.5}),
    ("loo-counterfactual", {"ret": 1, "resampled": []}, {}, {"adv": 0}),
    ("arpo", {"u": 0.55, "delta_entropy": 0.5}, {}, {"p": 0.45, "branch": True}),
    ("arpo", {"u": 0.9, "delta_entropy": -3}, {}, {"p": 1, "branch": False}),
    (
        "igpo",
        {"gold_logprobs": [[-1, "nan"], [-0.5, -0.5, -0.5]], "f1": 0.5},
        {},
        {"p": [0.36787944, 0.60653066], "rewards": [0.23865122, 0.5], "returns": [0.73865122, 0.5]},
    ),
    ("pbs", {"phi": [0, 0.3, 0.6, 0]}, {}, {"F": [0.3, 0.3, -0.6], "discounted_sum": 0}),
    ("pbs", {"phi": [0.5]}, {"gamma": 0.9}, {"F": [], "discounted_sum": 0}),
    (
        "rewardflow",
        {"edges": {"a": ["b"], "b": ["a", "c"], "c": []}, "rewards": {"c": 1}},
        {"gamma": 0.5},
        {"V": {"a": 0.25, "b": 0.5, "c": 1}, "step_reward": {"a->b": 0.25, "b->a": -0.25, "b->c": 0.5}},
    ),
    ("spae", {"acc": [0.8, 1], "conf": [0.5, 1]}, {}, {"phi": [0.5, 1], "solved": [False, True]}),
    ("empg", {"entropy": [[0.2, 0.5, 1, "nan"]], "adv": [1]}, {}, {"adv": [[1.528463, 1.040048, 0.537006, 0]]}),
    ("empg", {"entropy": [[0.5, 0.5], []], "adv": [1, 1]}, {"zeta": 0}, {"adv": [[1, 1], []]}),
    (
        "selaur",
        {"p": [0.7, 0.2, 0.1, "nan"]},
        {},
        {"norm_entropy": 0.729847, "one_minus_max": 0.3, "one_minus_margin": 0.5, "mean": 0.509949},
    ),
]


@pytest.mark.parametrize(("formula", "inputs", "params", "expected"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_case(formula, inputs, params, expected):
    found = answer(Question(id="x", formula=formula, inputs=inputs, params=params, expected=expected, tol=2e-6), credit.TABLE)
    assert found.passed, (found.error, found.mismatches)


def test_every_formula_has_a_case():
    assert {c[0] for c in CASES} == set(credit.TABLE)
