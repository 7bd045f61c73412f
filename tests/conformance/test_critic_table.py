"""Cases of critics: worked numbers of the sources, then ragged, masked, padded and empty ones."""

import pytest

from phronesis.conformance import critic
from phronesis.conformance.case import Question
from phronesis.conformance.runner import answer

CASES = [
    (
        "gae",
        {"values": [0.5, 0.6, 0.7], "rewards": [0, 0, 1]},
        {"gamma": 0.99, "lam": 0.95},
        {"adv": [0.446829125, 0.37515, 0.3], "returns": [0.946829125, 0.97515, 1.0]},
    ),
    ("gae", {"values": [], "rewards": []}, {"gamma": 0.9, "lam": 0.9}, {"adv": [], "returns": []}),
    (
        "gae-skip",
        {"values": [0.5, 0.6, "nan", 0.7, "nan"], "rewards": [0, 0, "nan", 1, "inf"], "mask": [1, 1, 0, 1, 0]},
        {"gamma": 1.0, "lam": 0.95},
        {"adv": [0.46575, 0.385, 0, 0.3, 0], "returns": [0.96575, 0.985, 0, 1, 0]},
    ),
    ("gae-skip", {"values": ["nan"], "rewards": ["nan"], "mask": [0]}, {}, {"adv": [0], "returns": [0]}),
    ("lambda-len", {"lengths": [100, 1000]}, {"alpha": 1.5}, {"lam": [1 - 1 / 150, 1 - 1 / 1500]}),
    ("lambda-len", {"lengths": []}, {}, {"lam": []}),
    (
        "value-clip",
        {"v": [1.5, "nan"], "v_old": [1.0, 0.0], "returns": [2.0, "inf"], "mask": [1, 0]},
        {"clip": 0.2},
        {"per_token": [0.32, 0.0], "loss": 0.32},
    ),
    ("value-clip", {"v": [1.5], "v_old": [1.0], "returns": [2.0], "mask": [0]}, {}, {"loss": 0.0}),
    ("value-clip", {"v": [1.5], "v_old": [1.0], "returns": [2.0]}, {}, {"per_token": [0.32], "loss": 0.32}),
    (
        "poad",
        {"values": [[0.2, 0.3], [0.4, 0.5]], "rewards": [0, 1]},
        {"gamma": 0.9, "lam": 0.95},
        {"adv": [[0.62404375, 0.551625], [0.575, 0.5]]},
    ),
    ("poad", {"values": [], "rewards": []}, {"gamma": 0.9, "lam": 0.95}, {"adv": []}),
    (
        "ntpo",
        {"values": [[0.2, 0.3], [0.4, 0.5]], "rewards": [0, 1]},
        {"gamma": 0.9, "lam": 1.0},
        {"adv": [[0.529, 0.51], [0.5, 0.5]]},
    ),
    (
        "archer",
        {"r": 0, "done": [0], "v_next": 0.5, "q1": [1.0, 0.5], "q2": [0.5, 0.7], "v1": 0.4, "v2": 0.3},
        {},
        {"q_target": [0.45], "adv": [0.2, 0.2]},
    ),
    (
        "archer",
        {"r": [0.2, 1.0], "done": [0, 1], "v_next": [0.6, "nan"], "q1": 0.5, "q2": 0.7, "v1": 0.4, "v2": 0.3},
        {"gamma": 0.9},
        {"q_target": [0.74, 1.0], "adv": 0.2},
    ),
]


@pytest.mark.parametrize(("formula", "inputs", "params", "expected"), CASES)
def test_case(formula, inputs, params, expected):
    question = Question(id="case", formula=formula, inputs=inputs, params=params, expected=expected)
    found = answer(question, critic.TABLE)
    assert found.passed, found
