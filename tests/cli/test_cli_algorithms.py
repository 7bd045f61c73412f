"""Choosing an algorithm by name on the command line, learning about it, and being told what does not fit."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

from terminal import Seen

from phronesis.cli.train import resolve
from phronesis.train import lint, presets, recipes

Command = Callable[..., Seen]


def test_the_list_teaches_every_name(run: Command):
    text = run("algorithms").out
    for name in presets.names():
        assert f"\n{name} " in text
    listed = json.loads(run("algorithms", "--json").out)
    assert [row["name"] for row in listed] == presets.names()
    assert next(row for row in listed if row["name"] == "opd")["takes"] == ["teacher"]


def test_one_is_explained_with_what_it_sets(run: Command):
    seen = run("algorithms", "gspo")
    assert seen.code == 0
    assert "arXiv 2507.18071" in seen.out and "  learner.loss.objective.eps_high = 0.0004" in seen.out
    assert "learner.optimizer" not in seen.out and "  name" not in seen.out
    found = json.loads(run("algorithms", "glm5_reasoning", "--json").out)
    assert found["changes"]["group_size"] == 32 and found["changes"]["learner.epochs"] == 1
    assert json.loads(run("algorithms", "arpo", "--json").out)["changes"]["player.type"] == "arpo"
    assert json.loads(run("algorithms", "opd", "--json").out)["changes"] == {}, "it needs a teacher, which quickstart has not"
    seen = run("algorithms", "vinepo")
    assert seen.code == 2 and "unknown algorithm 'vinepo'; did you mean 'vineppo'" in seen.err


def test_train_takes_it_as_an_option_or_a_setting(run: Command, tmp_path: Path):
    shown = [
        tomllib.loads(run("train", "quickstart", *words, "--show").out)
        for words in (("--algorithm", "gspo"), ("algorithm=gspo",), ("--algorithm", "gspo", "learner.epochs=5"))
    ]
    assert shown[0] == shown[1] and shown[0]["learner"]["loss"]["objective"]["type"] == "gspo"
    assert (shown[0]["learner"]["epochs"], shown[2]["learner"]["epochs"]) == (2, 5)
    assert shown[0]["name"] == "quickstart-gspo" and "algorithm" not in shown[0]
    (tmp_path / "mine.toml").write_text('algorithm = "gspo"\n')
    assert resolve("quickstart", ["mine.toml"]) == presets.apply("gspo", recipes.get("quickstart"))
    seen = run("train", "quickstart", "--algorithm", "opd")
    assert seen.code == 2 and "needs a teacher: set credit.teacher=FOLDER" in seen.err


def test_the_doctor_looks_over_settings(run: Command):
    seen = run("doctor", "config", "quickstart")
    assert (seen.code, seen.out) == (0, f"{len(lint.RULES)} rules, 0 findings\n")
    seen = run("doctor", "config", "quickstart", "--algorithm", "glm5_reasoning")
    assert seen.code == 0 and seen.out.startswith("warn  clipping-inert\n  objective 'ppo_clip' sees a ratio of 1")
    seen = run("doctor", "config", "quickstart", "sampling.top_k=3", "--json")
    found = json.loads(seen.out)
    assert seen.code == 1 and found["rules"] == len(lint.RULES)
    assert [(f["rule"], f["severity"]) for f in found["findings"]] == [("truncated-sampling", "refuse")]
    assert set(found["findings"][0]) == {"rule", "severity", "reason", "fix"}


def test_a_run_is_warned_before_it_starts(run: Command, tmp_path: Path):
    words = ["env.name=probe-copy", "prime=none", "steps=1", "groups=1", "group_size=2", "evaluation.tasks=0"]
    small = ["limits.max_turn_tokens=2", "limits.max_turns=1", "model.tiny.width=16", "model.tiny.layers=1"]
    seen = run("train", "quickstart", *words, *small, "learner.epochs=1", "--out", str(tmp_path / "run"))
    assert seen.code == 0
    first = json.loads(seen.err.splitlines()[0])
    assert first["level"] == "warning" and first["message"].startswith("clipping-inert: objective 'ppo_clip' sees a ratio of 1")
