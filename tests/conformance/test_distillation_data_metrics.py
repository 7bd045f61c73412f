"""Cases of distillation, data and metrics through the runner: worked ones, ragged, masked, padded with NaN, and empty ones."""

from __future__ import annotations

import math

import pytest

from phronesis.conformance.case import Question
from phronesis.conformance.runner import answer
from phronesis.conformance.tables import formulas

CHOSEN = {"chosen": [-1.0, -0.5], "chosen_ref": [-1.2, -0.9]}
REJECTED = {"rejected": [-2.0, -0.3, -0.7, "nan"], "rejected_ref": [-1.5, -0.3, -0.9, "nan"]}
JUDGED = {"conf": [0.3, "nan"], "correct": [1, "nan"], "mask": [1, 0]}

CASES = [
    ("sft", {"logp": [[-0.5, -1.5, "nan"], [-2.0, "-inf", -0.25]], "mask": [[1, 1, 0], [1, 0, 1]]}, {}, {"loss": 1.0625}),
    ("sft", {"logp": [["nan"], []], "mask": [[0], []]}, {}, {"loss": 0.0}),
    ("dft", {"logp": [-1.0, "nan"], "mask": [1, 0]}, {}, {"token_loss": [0.36787944, 0], "coef": [0.36787944, 0]}),
    ("dft", {"logp": [["nan"]], "mask": [[0]]}, {}, {"loss": 0.0, "token_loss": [[0.0]]}),
    ("dpo", CHOSEN | REJECTED, {"beta": 0.1}, {"delta_w": 0.6, "delta_l": -0.3, "loss": 0.64915934}),
    ("dpo", {"chosen": 2.0, "rejected": -1.0}, {"beta": 0.1}, {"loss": 0.55435524}),
    ("ipo", CHOSEN | REJECTED, {"beta": 0.1}, {"loss": 16.81}),
    ("ipo", {"chosen": [], "rejected": []}, {"beta": 0.5}, {"loss": 1.0}),
    ("opd", {"theta": [[-0.5], [-2.0, -1.0]], "teacher": [[-1.0], [-0.5, -1.0]]}, {}, {"adv": [[-0.5], [1.5, 0.0]]}),
    ("opd-masked", {"theta": [-2.0], "infer": [-0.5], "ref": [-0.3]}, {}, {"keep": [False], "token_loss": [0.00225]}),
    ("xstage", {"theta": [-0.8, "nan"], "teacher": [-0.2, 0], "old": [-0.9, 0], "infer": [-0.9, "-inf"], "mask": [1, 0]}, {},
     {"loss": -0.66310255}),
    ("jsd", {"student": [1, 0], "teacher": [0, 1]}, {"beta": 0.5}, {"loss": math.log(2)}),
    ("sdpo", {"student": [1, 0], "teacher": [0.5, 0.5]}, {"alpha": 0}, {"loss": "inf"}),
    ("sdpo", {"student": [1, 0], "teacher": [0.5, 0.5]}, {"alpha": 1}, {"loss": math.log(2)}),
    ("sdar", {"delta": [0.2]}, {}, {"gate": [0.73105858], "token_loss": [0.01462117]}),
    ("rlag", {"lp_knowledge": -1, "lp_answer_aug": -0.5, "lp_answer_plain": -3}, {}, {"argument": -6.95, "loss": 6.95095775}),
    ("step-apo", {"logratio_w": 0.5, "logratio_l": -0.3, "v_w": 0.8, "v_l": 0.2}, {"beta": 0.1}, {"argument": -0.52}),
    ("learnability", {"p": 0.3, "n": 6}, {}, {"p_one_minus_p": 0.21, "expected_unbiased": 0.21}),
    ("learnability", {"c": 2, "n": 5}, {}, {"unbiased": 0.3}),
    ("wilson", {"c": 0, "n": 5}, {}, {"low": 0.0, "high": 0.43449149}),
    ("speed-keep", {"p": 0.3}, {}, {"prob": 0.7518}),
    ("dump", {"n": [4, 4, 0], "mean_abs_adv": [0.5, 0.5, "nan"]}, {"temperature": 0.5},
     {"prob": [0.17438404, 0.17438404, 0.65123191]}),
    ("dump", {"n": [], "mean_abs_adv": []}, {}, {"score": [], "prob": []}),
    ("sec", {"q0": [0.0, 0.0], "updates": []}, {"alpha": 0.5, "temperature": 1}, {"q": [0, 0], "prob": [0.5, 0.5]}),
    ("pass-at-k", {"n": 5, "c": 3}, {"k": 3}, {"value": 1.0}),
    ("pass-hat-k", {"n": 7, "c": 4}, {"k": 3}, {"value": 4 / 35}),
    ("best-at-k", {"scores": [1, 1, "nan"]}, {"k": 2}, {"value": 1.0}),
    ("avg-at-k", {"correct": [[1, "nan"], [1, 0]]}, {}, {"value": 0.75}),
    ("cons-at-k", {"answers": [1, 2, 2, 3], "gold": 2}, {"k": 4}, {"value": 1.0}),
    ("ece", JUDGED, {"bins": 10}, {"value": 0.7}),
    ("brier", JUDGED, {}, {"value": 0.49}),
    ("auroc", {"conf": [0.5, 0.5], "correct": [1, 1]}, {}, {"value": "nan"}),
    ("sparsity", {"theta0": [[1, 2], [3]], "theta1": [[1.001, 2.1], [3]]}, {"storage": "bf16"}, {"unchanged": 2 / 3}),
    ("bf16", {"x": [1.00390625, 1.01171875, "inf"]}, {}, {"rounded": [1.0, 1.015625, "inf"]}),
    ("temp-ratio", {"logits": [2, 1, 0, "-inf"], "token": 0}, {"T": 0.7}, {"false_ratio": 0.86287333}),
    ("topp-ratio", {"p": [0.5, 0.3, 0.2]}, {"top_p": 0.8, "length": 2}, {"kept": [0, 1], "sequence_ratio": 0.64}),
]  # fmt: skip


@pytest.mark.parametrize(("formula", "inputs", "params", "expected"), CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_case(formula, inputs, params, expected):
    asked = Question(id=formula, formula=formula, inputs=inputs, params=params, expected=expected, tol=1e-6)
    found = answer(asked, formulas())
    assert found.passed, (found.error, found.mismatches)
