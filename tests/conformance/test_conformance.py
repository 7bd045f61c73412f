"""The conformance runner: agreement, masks, NaN, unknown formulas, exceptions, exit codes."""

import json
import math

import pytest

from phronesis.conformance.__main__ import main
from phronesis.conformance.case import Question
from phronesis.conformance.compare import mismatches
from phronesis.conformance.fields import Fields, decoded
from phronesis.conformance.runner import answer
from phronesis.conformance.tables import formulas
from phronesis.errors import ConfigError

RLOO = {
    "id": "rloo-a",
    "formula": "rloo",
    "inputs": {"rewards": [2, 0, 1, 1, 5], "groups": ["a", "a", "a", "a", "b"]},
    "params": {},
    "expected": {"adv": [4 / 3, -4 / 3, 0, 0, 0]},
    "tol": 1e-6,
    "note": "a group of one gives 0",
}
WRONG = {**RLOO, "id": "rloo-b", "expected": {"adv": [4 / 3, -4 / 3, 0, 0.5, 0]}}
UNKNOWN = {"id": "x", "formula": "no-such", "inputs": {}, "params": {}, "expected": {}, "tol": 1e-6}
BROKEN = {"id": "y", "formula": "grpo", "inputs": {"rewards": "many"}, "params": {}, "expected": {"adv": []}, "tol": 1e-6}


@pytest.fixture
def cases(tmp_path):
    def write(*found):
        path = tmp_path / "cases.json"
        path.write_text(json.dumps({"version": 1, "formulas": 1, "encoding": "", "cases": found}))
        return str(path)

    return write


def test_all_agree(cases, capsys):
    assert main([cases(RLOO)]) == 0
    assert capsys.readouterr().out.splitlines() == ["pass  rloo  (1 of 1)", "1 passed, 0 failed"]


def test_failures_are_told_and_do_not_stop_the_others(cases, capsys):
    assert main([cases(UNKNOWN, BROKEN, WRONG, RLOO)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "      x: unknown formula 'no-such'" in lines
    assert "      y: ConfigError: inputs field 'rewards': 'many' is not a list" in lines
    assert "FAIL  rloo  (1 of 2)" in lines
    assert "      rloo-b: adv[3]: got 0.0, want 0.5" in lines
    assert lines[-1] == "1 passed, 3 failed"


def test_json(cases, capsys):
    assert main([cases(RLOO, WRONG), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["passed"], told["failed"]) == (1, 1)
    assert told["cases"][1]["mismatches"] == [["adv[3]", "0.0", "0.5"]]


@pytest.mark.parametrize("text", ["{", '{"cases": [{"id": 3}]}'])
def test_a_file_that_is_none(tmp_path, capsys, text):
    path = tmp_path / "cases.json"
    path.write_text(text)
    assert main([str(path)]) == 2
    assert "no file of cases" in capsys.readouterr().err
    assert main([str(tmp_path / "missing.json")]) == 2


def test_a_bare_nan_is_read_too(tmp_path):
    path = tmp_path / "cases.json"
    padded = '{"x": [[2, NaN]], "mask": [[1, 0]]}'
    path.write_text(f'{{"cases": [{{"id": "w", "formula": "whiten", "inputs": {padded}, "expected": {{"out": [[0, 0]]}}}}]}}')
    assert main([str(path)]) == 0


def test_agreement():
    assert not mismatches({"a": 100.0001}, {"a": 100}, 1e-5)
    assert mismatches({"a": 100.01}, {"a": 100}, 1e-5)
    assert not mismatches({"a": [math.nan, math.inf]}, {"a": [math.nan, math.inf]}, 1e-6)
    assert mismatches({"a": math.nan}, {"a": 0.0}, 1e-6)
    assert mismatches({"a": -math.inf}, {"a": math.inf}, 1e-6)
    assert not mismatches({"a": True, "b": {"c": (1, "x")}}, {"a": 1, "b": {"c": [1, "x"]}}, 1e-6)
    assert [m.path for m in mismatches({"a": [[1], [2, 3]]}, {"a": [[1], [2, 4]], "b": 1}, 1e-6)] == ["a[1][1]", "b"]
    assert [m.path for m in mismatches({"a": [1, 2]}, {"a": [1]}, 1e-6)] == ["a"]


def test_positions_with_mask_0_do_not_matter():
    want = {"out": [[1.0, 9.0], [2.0]]}
    assert not mismatches({"out": [[1.0, 0.0], [2.0]]}, want, 1e-6, [[1, 0], [1]])
    assert [m.path for m in mismatches({"out": [[1.0, 0.0], [3.0]]}, want, 1e-6, [[1, 0], [1]])] == ["out[1][0]"]
    assert mismatches({"sum": 3.0}, {"sum": 1.0}, 1e-6, [[1, 0], [1]]), "another shape is not masked"


def test_words_are_numbers():
    found = decoded({"x": ["nan", 1, "-inf"], "name": "infer"})
    assert math.isnan(found["x"][0]) and found["x"][1:] == [1, -math.inf] and found["name"] == "infer"


def test_fields():
    fields = Fields({"rows": [[1], [2, 3]], "mask": [1, 0], "groups": ["a", 2]})
    assert fields.rows("rows") == [[1.0], [2.0, 3.0]]
    assert fields.flags("mask") == [True, False] and fields.keys("groups") == ["a", 2]
    assert fields.number("eps", 0.5) == 0.5 and fields.number("none", 0.0) == 0.0
    with pytest.raises(ConfigError, match="inputs have no 'rewards'"):
        fields.numbers("rewards")
    with pytest.raises(ConfigError, match="neither true nor false"):
        Fields({"mask": [2]}).flags("mask")


def test_an_answer_names_its_case():
    told = answer(Question(id="q", formula="drgrpo", inputs={"rewards": [1, "nan"]}, expected={"adv": [0]}), formulas())
    assert told.id == "q" and not told.passed
