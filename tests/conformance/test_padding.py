"""Padding in cases: masks that a formula does not know, and NaN without a mask."""

from math import nan

import pytest

from phronesis.conformance.case import Question
from phronesis.conformance.padding import nan_mask
from phronesis.conformance.runner import answer
from phronesis.conformance.tables import formulas

CASES = [
    ("rloo", {"rewards": [1, 7, 0, 0, 0], "mask": [1, 0, 1, 1, 1]}, {"adv": [1, 0, -1 / 3, -1 / 3, -1 / 3]}, {}),
    ("rloo", {"rewards": [1, 0, 0, 0, "nan"]}, {"adv": [1, -1 / 3, -1 / 3, -1 / 3, 0]}, {}),
    ("maxrl", {"rewards": ["inf", 1, 0, 0, 0], "mask": [0, 1, 1, 1, 1]}, {"adv": [0, 3, -1, -1, -1]}, {}),
    ("opo", {"rewards": [1, 0, 5], "lengths": [2, 4, 9], "mask": [1, 1, 0]}, {"adv": [2 / 3, -1 / 3, 0]}, {}),
    ("entropy", {"p": [0.5, 0.25, 0.125, 0.125, "nan"]}, {"H": 1.2130075659799042}, {}),
    ("entropy", {"p": [0.5, 0.25, 9, 0.125, 0.125], "mask": [1, 1, 0, 1, 1]}, {"H": 1.2130075659799042}, {}),
    ("jsd", {"student": [0.6, 0.3, 0.1, "nan"], "teacher": [0.2, 0.5, 0.3, 0.0]}, {"loss": 0.0911207985254674}, {"beta": 0.5}),
    ("kl-k", {"theta": [-1, "nan"], "ref": [-1.5, 0]}, {"k1": [0.5, 0], "k2": [0.125, 0]}, {}),
    ("topp-ratio", {"p": ["nan", 0.6, 0.25, 0.1, 0.05]}, {"kept": [1, 2, 3], "token_ratio": 0.95}, {"top_p": 0.9}),
    ("temp-ratio", {"logits": ["nan", 2, 1, 0], "token": 1}, {"logp_T1": -0.4076059644}, {"T": 0.7}),
    (
        "gdpo",
        {"rewards": [[1, 0, 1, 0, 9], [0.2, 0.8, 0.5, 0.5, "nan"]], "weights": [1, 0.5], "mask": [1, 1, 1, 1, 0]},
        {"summed": [0.25365396808, -0.25365396808, 0.86602390378, -0.86602390378, 0]},
        {"eps": 1e-6},
    ),
    ("poad", {"values": [[0.2, 0.3, "nan"], [0.4, 0.5, 0.1]], "rewards": [0, 1]}, {}, {"gamma": 0.9, "lam": 1.0}),
    (
        "reinforce",
        {
            "logits": [[0.0, 1.0, 2.0], ["nan", 0, 0], [0, 0, 0]],
            "actions": [2, 0, 1],
            "behav": [0, 0, 0],
            "adv": [1.0, 5.0, -1.0],
            "mask": [1, 0, 1],
        },
        {"loss": 0.5 * 0.4076059644 - 0.5 * 1.0986122887},
        {},
    ),
    (
        "stop-grad",
        {"logits": [[0.0, 0.0]], "actions": [0], "behav": ["nan"], "adv": [1.0], "mask": [0]},
        {"wrong_grad": [[0, 0]]},
        {},
    ),
    (
        "gigpo",
        {"trajectories": [{"anchors": ["a", "b"], "rewards": [0, 1.0]}, {"anchors": ["a", "x"], "rewards": [0, "nan"]}]},
        {"episode": [0.5, -0.5]},
        {"gamma": 0.9},
    ),
    (
        "gigpo",
        {
            "trajectories": [
                {"anchors": ["a", "b"], "rewards": [0, 1.0]},
                {"anchors": ["a", "x"], "rewards": [0, 9.0], "mask": [1, 0]},
            ]
        },
        {"episode": [0.5, -0.5]},
        {"gamma": 0.9},
    ),
    ("agg-trajectory", {"rollouts": [[[1.0, "nan"], [3.0, 3.0]], [[2.0, 4.0, 6.0]]]}, {"loss": 3.0}, {}),
    ("composite", {"rl": {"token_loss": [0.5, "nan"], "weight": [1, 1]}, "mask": [1, 0]}, {"loss": 0.5}, {}),
    (
        "rfpp-baseline",
        {"rewards": [1, 0], "groups": [0, 0], "lengths": [1, 1], "mask": [[1, 0], [0, 1]]},
        {"adv": [[0.7071067776, 0], [0, -0.7071067776]]},
        {},
    ),
    ("veto", {"rho": []}, {"keep": []}, {}),
    ("pass-at-k", {"n": [10, 10], "c": [3, 0]}, {"value": 0.15}, {"k": 1}),
    ("dpo", {"chosen": [1.0, "nan"], "rejected": [-1.0, 0.5]}, {"delta_w": 1.0, "delta_l": -0.5}, {"beta": 0.1}),
]


@pytest.mark.parametrize(("formula", "inputs", "expected", "params"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_what_does_not_count_changes_nothing(formula, inputs, expected, params):
    found = answer(Question(id="x", formula=formula, inputs=inputs, params=params, expected=expected), formulas())
    assert found.passed, (found.error, found.mismatches)


def test_an_error_that_padding_does_not_explain_is_told():
    found = answer(Question(id="x", formula="rloo", inputs={"mask": [0, 1]}, expected={"adv": [0]}), formulas())
    assert not found.passed
    assert found.error is not None and "rewards" in found.error


def test_nan_in_lists_of_several_shapes_makes_no_mask():
    assert nan_mask({"a": [1.0, nan], "b": [nan, 1.0, 2.0]}) is None
    assert nan_mask({"a": [[1.0, nan], [2.0]], "b": [1.0, 2.0]}) == [[True, False], [True]]
