"""`phronesis pairs`: a model learns from a file of preferences, or from the attempts a run has stored."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import torch
from msgspec.structs import replace
from tiny_jobs import config

from phronesis.chat.detect import format_for
from phronesis.cli.main import main
from phronesis.models import checkpoint as model_files
from phronesis.models.layout import plan
from phronesis.models.tokenizer import load_tokenizer
from phronesis.records import say
from phronesis.train import job
from phronesis.train.config import EvalConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose policy answers with either letter: 32 groups of 4 attempts are stored, nearly nothing is learned."""
    folder = tmp_path_factory.mktemp("stored") / "run"
    start = config(evaluation=EvalConfig(tasks=0), steps=2, groups=16)
    job.run(replace(start, learner=replace(start.learner, optimizer=replace(start.learner.optimizer, lr=1e-6))), folder)
    return folder


def asked(*words: str | Path) -> int:
    return main([str(w) for w in words])


def lead(model: Path) -> list[float]:
    """Nats by which the policy prefers the right letter to the other, for both prompts."""
    decoder, tokenizer = model_files.load(model), load_tokenizer(model)
    chat, found = format_for(tokenizer, "preserve"), []
    for right, wrong in ("ab", "ba"):
        ids = list(chat.open([say("user", f"Say {right}.")], ()))
        with torch.no_grad():
            logits = decoder.logits(decoder.hidden(torch.tensor(ids), plan([len(ids)], [None])))[-1]
        (first,), (second,) = (tokenizer.encode(letter) for letter in (right, wrong))
        found.append(float(logits[first] - logits[second]))
    return found


def test_a_file_of_preferences_teaches_the_right_letter(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = [
        {
            "opening": [msgspec.to_builtins(say("user", f"Say {right}."))],
            "chosen": [[msgspec.to_builtins(say("assistant", right)), []]],
            "rejected": [[msgspec.to_builtins(say("assistant", wrong)), []]],
        }
        for right, wrong in ("ab", "ba", "aa")
    ]
    path, out = tmp_path / "pairs.jsonl", tmp_path / "preferred"
    path.write_bytes(b"\n".join(msgspec.json.encode(line) for line in lines))
    settings = ("epochs=40", "optimizer.lr=3e-3", "objective.type=ipo_pref", "objective.beta=0.2")
    assert asked("pairs", run, *settings, "--file", path, "--out", out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pairs"] == 3 and report["left_out"] == {"same": 1} and report["history"][-1]["accuracy"] == 1.0
    assert abs(report["history"][-1]["margin"] - 2.5) < 0.7  # IPO's target, 1 / (2 beta)
    assert json.loads((out / "pairs.json").read_text()) == report and 'type = "ipo_pref"' in (out / "pairs.toml").read_text()
    before, after = lead(run / "checkpoints" / "step-00000002"), lead(out)
    assert min(before) < 0.0 and all(b + 1.5 < a for b, a in zip(before, after, strict=True)) and min(after) > 1.0


@pytest.mark.parametrize(("compare", "objective"), [("attempts", "dpo"), ("first_step", "dpo"), ("steps", "step_apo")])
def test_stored_attempts_teach_too(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], compare: str, objective: str):
    out = tmp_path / "preferred"
    settings = ("epochs=15", "optimizer.lr=3e-3", f"objective.type={objective}")
    assert asked("pairs", run, *settings, "--episodes", run, "--compare", compare, "--out", out) == 0
    said = capsys.readouterr().out
    assert "accuracy 100%" in said and "'tied'" in said and said.endswith(f"model: {out}\n")
    before, after = lead(run / "checkpoints" / "step-00000002"), lead(out)
    assert min(before) < 0.0 and all(b + 1.5 < a for b, a in zip(before, after, strict=True)) and min(after) > 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --file FILE.jsonl or --episodes RUN"),
        (["--file", "x.jsonl", "--compare", "best"], "--compare 'best' must be"),
        (["--file", "x.jsonl"], "preferences 'x.jsonl' cannot be read"),
        (["--file", "x.jsonl", "--compare", "steps"], "a file has pairs"),
        (["--episodes", "RUN", "--margin", "5"], "no pairs to learn from; left out: {'tied'"),
        (["--episodes", "RUN", "--kind", "heldout_after"], "no pairs to learn from"),
        (["--episodes", "RUN", "--out", "RUN"], "exists; name a new folder"),
    ],
)
def test_what_cannot_be_done_is_named(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str):
    assert asked("pairs", run, *(str(run) if w == "RUN" else w for w in words)) == 2
    assert message in capsys.readouterr().err
