"""The commands around a whole (very small) run: train, resume, eval, replay, report."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
from terminal import Seen

from phronesis.cli.main import main
from phronesis.cli.player import find
from phronesis.cli.train import interrupted, resolve
from phronesis.config import load
from phronesis.errors import CheckpointError
from phronesis.store import Run, Where
from phronesis.train import recipes
from phronesis.train.config import RunConfig

Command = Callable[..., Seen]
ROOT = Path(__file__).parents[2]

SMALL = [
    "env.name=probe-copy", "prime=none", "steps=3", "checkpoint_every=1", "groups=2", "group_size=4", "evaluation.tasks=4",
    "limits.max_turn_tokens=8", "model.tiny.width=16", "model.tiny.layers=1", "model.tiny.mlp_width=16",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, trained once for the module; tests must not write into it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    root = logging.getLogger("phronesis")
    before = (root.handlers[:], root.level, root.propagate)
    assert main(["train", "quickstart", *SMALL, "--seed", "5", "--out", str(folder), "--json"]) == 0
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])
    return folder


def test_a_run_leaves_what_it_promises(trained: Path):
    assert {"config.toml", "code.json", "metrics.jsonl", "summary.json", "report.html"} <= {p.name for p in trained.iterdir()}
    with Run.open(trained) as run:
        assert load(RunConfig, [run.layout.config]) == resolve("quickstart", SMALL, 5)
        assert len(run.rows(Where(kind="train"))) == 3 * 2 * 4
        assert len(run.rows(Where(kind="heldout_after"))) == 4
        assert [s.step for s in run.steps() if "reward/mean" in s.values] == [0, 1, 2]
        summary = run.summary()
        assert summary is not None and summary["seed"] == 5 and summary["steps"] == 3


def test_the_documentation_names_every_file_phase_and_event_of_a_run(trained: Path):
    page = (ROOT / "docs" / "run-folder.md").read_text()
    for path in trained.iterdir():
        assert f"`{path.name}" in page, path.name
    phases = json.loads((trained / "phases.json").read_text())
    assert "heldout_after" in phases
    for name in {*phases, *phases["heldout_after"]}:
        assert f"`{name}`" in page, name
    with Run.open(trained) as run:
        lines = run.layout.events.read_text().splitlines()
    for key in {key for line in lines for key in json.loads(line)}:
        assert f"`{key}`" in page, key
    written = "".join(p.read_text() for p in (ROOT / "src" / "phronesis" / "train").glob("*.py"))
    kinds = set(re.findall(r'\.event\(\s*"(\w+)"', written))
    assert len(kinds) >= 6
    for kind in kinds:
        assert f"| `{kind}` |" in page, kind


def test_progress_is_json_lines_when_nobody_watches(run: Command, tmp_path: Path):
    seen = run("train", "quickstart", *SMALL, "--out", str(tmp_path / "a"))
    assert seen.code == 0
    lines = [json.loads(line) for line in seen.err.splitlines()]
    steps = [line for line in lines if "reward/mean" in line]
    assert [(s["step"], s["total"]) for s in steps] == [(1, 3), (2, 3), (3, 3)]
    assert all(s["message"].startswith(f"step {s['step']}/3  reward ") for s in steps)
    assert any(line.get("phase") == "heldout_after" and line["done"] == line["total"] == 4 for line in lines)
    last = seen.out.splitlines()
    assert last[0].startswith("held-out success ") and last[1] == f"report: {tmp_path / 'a' / 'report.html'}"


def test_a_finished_or_foreign_folder_is_refused(run: Command, trained: Path):
    seen = run("train", str(trained))
    assert seen.code == 2 and "already holds a run; continue it with --resume" in seen.err
    seen = run("train", str(trained), "steps=4", "--resume")
    assert seen.code == 2 and "started with another config (steps: 3 -> 4)" in seen.err


def test_resuming_from_a_checkpoint_gives_the_same_run(run: Command, trained: Path, tmp_path: Path):
    """The last step is undone and done again: rewards and every token of its episodes come out the same."""
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "summary.json").unlink()
    shutil.rmtree(copy / "checkpoints" / "step-00000003")
    seen = run("train", str(copy), "--resume", "--json")
    assert seen.code == 0, seen.err
    with Run.open(trained) as old, Run.open(copy) as new:
        for a, b in zip(old.episodes(Where(kind="train")), new.episodes(Where(kind="train")), strict=True):
            assert [(t.completion, t.logprobs, t.version) for t in a.turns] == [
                (t.completion, t.logprobs, t.version) for t in b.turns
            ]
        assert [s.values.get("reward/mean") for s in old.steps()] == [s.values.get("reward/mean") for s in new.steps()]


def test_evaluating(run: Command, trained: Path):
    first, again = (json.loads(run("eval", str(trained), "--tasks", "6", "--json").out) for _ in range(2))
    assert first == again
    result = first["result"]
    assert result["n"] == 6 and result["ci_low"] <= result["success"] <= result["ci_high"]
    assert first["weights"].endswith("step-00000003") and first["split"] == "heldout" and first["seed"] == 5
    early = json.loads(run("eval", str(trained), "--tasks", "6", "--step", "1", "--temperature", "0", "--json").out)
    assert early["weights"].endswith("step-00000001") and early["result"]["temperature"] == 0.0
    text = run("eval", str(trained), "--tasks", "6").out
    assert text.startswith(f"success {result['success']:.1%} [{result['ci_low']:.1%}, {result['ci_high']:.1%}] on 6 episodes")
    seen = run("eval", str(trained), "--step", "9")
    assert seen.code == 2 and "has no checkpoint of step 9; it has 0, 1, 2, 3" in seen.err


def test_a_model_folder_can_be_evaluated_too(run: Command, trained: Path):
    weights = find(trained, 3)
    seen = run("eval", str(weights), "env.name=probe-copy", "limits.max_turn_tokens=8", "--tasks", "6", "--seed", "5", "--json")
    assert seen.code == 0, seen.err
    assert json.loads(seen.out)["result"] == json.loads(run("eval", str(trained), "--tasks", "6", "--json").out)["result"]
    assert run("eval", str(weights), "--step", "3").code == 2
    with pytest.raises(CheckpointError, match="no run or model folder"):
        find(trained / "absent", None)


@pytest.mark.parametrize(
    "id", ["train-0-1-2", "train-2-0-0", "heldout_before-1-0", "heldout_after-2-0", "heldout_after_greedy-0-0"]
)
def test_episodes_replay_bit_for_bit(run: Command, trained: Path, id: str):
    found = json.loads(run("replay", str(trained), id, "--json").out)
    assert found["exact"] and found["resampled"] and found["differences"] == []
    assert found["tokens"] > 0 and found["max_logprob_difference"] == 0.0


def test_a_replay_without_the_weights_uses_the_recorded_completions(run: Command, trained: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    shutil.rmtree(copy / "checkpoints" / "step-00000001")
    seen = run("replay", str(copy), "train-1-0-0")
    assert seen.code == 0 and "the same bit for bit" in seen.out
    assert "recorded completions, as no checkpoint holds the weights that played it" in seen.out


def test_a_replay_that_differs_says_where_and_exits_with_1(run: Command, trained: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    with Run.create(copy, load(RunConfig, [copy / "config.toml"]), resume=True) as writer:
        episode = writer.get("train-1-0-0")
        turn = episode.turns[0]
        forged = msgspec.structs.replace(
            turn, completion=(turn.completion[0], (turn.completion[1] + 1) % 200, *turn.completion[2:])
        )
        writer.append(msgspec.structs.replace(episode, turns=(forged, *episode.turns[1:])))
    seen = run("replay", str(copy), "train-1-0-0")
    assert seen.code == 1
    assert f"turn 0, completion[1]: stored {forged.completion[1]}, " in seen.out
    found = json.loads(run("replay", str(copy), "train-1-0-0", "--json").out)
    assert found["differences"][0]["what"] == "completion[1]" and not found["exact"]


def test_unknown_episodes_are_suggested(run: Command, trained: Path):
    seen = run("replay", str(trained), "train-1-0-77")
    assert seen.code == 2 and "unknown episode 'train-1-0-77'; did you mean 'train-1-0-" in seen.err


def test_the_report_command(run: Command, trained: Path):
    assert run("report", str(trained)).out == f"{trained / 'report.html'}\n"
    found = json.loads(run("report", str(trained), "--json").out)
    assert found["episodes"]["train"] == 24 and found["notes"] == []
    assert found["damage"]["bytes"] == 0 and found["damage"]["unreadable"] == {}
    assert found["summary"]["seed"] == 5 and found["active"] is False


def test_corrupt_checkpoints_are_named(run: Command, trained: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "summary.json").unlink()
    weights = next((copy / "checkpoints" / "step-00000003").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    seen = run("train", str(copy), "--resume")
    assert seen.code == 2 and "is corrupt" in seen.err and "step-00000002" in seen.err


def test_showing_the_config_writes_nothing(run: Command, tmp_path: Path):
    (tmp_path / "mine.toml").write_text('steps = 7\n[env]\nname = "guess"\n')
    seen = run("train", "quickstart", "mine.toml", "groups=3", "--seed", "9", "--show")
    table = tomllib.loads(seen.out)
    assert (table["steps"], table["env"]["name"], table["groups"], table["seed"]) == (7, "guess", 3, 9)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]
    (tmp_path / "all.toml").write_text(seen.out)
    assert run("train", "all.toml", "--show").out == seen.out


def test_every_recipe_is_valid_and_round_trips(run: Command, tmp_path: Path):
    for name in recipes.names():
        shown = run("train", name, "--show")
        assert shown.code == 0, shown.err
        (tmp_path / f"{name}.toml").write_text(shown.out)
        assert resolve(str(tmp_path / f"{name}.toml"), [], None) == recipes.get(name)


def test_control_c_says_how_to_continue(tmp_path: Path):
    folder = tmp_path / "run"
    words = ["train", "quickstart", *SMALL, "steps=1000000", "evaluation.tasks=0", "--out", str(folder)]
    command = [sys.executable, "-c", "from phronesis.cli.main import main; raise SystemExit(main())", *words]
    # A shell that starts the tests in the background has them ignore the interrupt, and children inherit that.
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening)
    assert process.stderr is not None
    for line in process.stderr:
        if '"step": 2' in line:
            os.kill(process.pid, signal.SIGINT)
            break
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert rest.splitlines()[-1] == (
        f"error: interrupted; everything so far is in {str(folder)!r}. Continue with: phronesis train {folder} --resume"
    )
    with Run.open(folder) as run:
        assert len(run.rows()) >= 16 and not run.active and run.damage().bytes == 0
    assert interrupted(tmp_path / "absent") == "interrupted before anything was written"


def test_a_context_that_the_prompt_fills_is_refused(run: Command, tmp_path: Path):
    seen = run("train", "quickstart", *SMALL, "limits.context=8", "--out", str(tmp_path / "a"))
    assert seen.code == 2
    assert "limits.context 8 is smaller than the prompt: task 'train-d' opens with 11 ids" in seen.err
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_the_advice_for_a_lone_episode_can_be_followed(run: Command):
    """The recipe's GiGPO calls its baseline `episode`, the other rules `baseline`."""
    for rule, field in (([], "credit.episode.type"), (["credit.type=trajectory"], "credit.baseline.type")):
        lone = ("train", "quickstart", "--show", "group_size=1", *rule)
        assert f'{field} = "none"' in run(*lone).err
        assert run(*lone, f"{field}=none").code == 0


def test_evaluating_in_a_context_that_the_prompt_fills_is_refused(run: Command, trained: Path):
    seen = run("eval", str(trained), "limits.context=8", "--tasks", "4")
    assert (seen.code, seen.out) == (2, "")
    assert "limits.context 8 is smaller than the prompt: task 'heldout-" in seen.err and "raise limits.context" in seen.err


DAMAGE = {
    "torn": lambda config: config.write_text(config.read_text()[:-30] + "lear = ["),
    "bytes": lambda config: config.write_bytes(config.read_bytes() + b"\n# \xff\xfe"),
    "foreign": lambda config: config.write_text("[tool]\nname = 3\n"),
    "empty": lambda config: config.write_text(""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_settings_that_cannot_be_read_are_told(run: Command, trained: Path, tmp_path: Path, damage: str):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    DAMAGE[damage](copy / "config.toml")
    for words in (("eval", str(copy)), ("replay", str(copy), "train-0-0-0"), ("train", str(copy), "--resume")):
        seen = run(*words)
        assert (seen.code, seen.out) == (2, ""), words
        assert seen.err.startswith(f"error: the settings of the run in {str(copy)!r} cannot be read: ")
        assert seen.err.endswith("; restore 'config.toml' from a copy of the run\n")
    seen = run("train", "quickstart", *SMALL, "--seed", "5", "--out", str(copy), "--resume")
    assert seen.code == 2 and str(copy) in seen.err
    if damage in ("torn", "bytes"):
        seen = run("report", str(copy))
        assert seen.code == 0 and seen.out == f"{copy / 'report.html'}\n"
        assert seen.err.startswith(f"warning: {str(copy)!r}: config.toml ") and seen.err.count("\n") == 1
        (note,) = json.loads(run("report", str(copy), "--json").out)["notes"]
        assert note.startswith("config.toml ")


def test_settings_cut_short_at_a_line_are_told(run: Command, trained: Path, tmp_path: Path):
    """What is left is valid, and means the defaults."""
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    lines = (copy / "config.toml").read_text().splitlines(keepends=True)
    (copy / "config.toml").write_text("".join(lines[: lines.index("[evaluation]\n")]))
    seen = run("eval", str(copy), "--tasks", "4", "--json")
    assert "is not the one it was started with (hash " in seen.err and seen.err.startswith("warning: 'config.toml' of the run")
    assert run("eval", str(trained), "--tasks", "4", "--json").err.count("warning") == 0
    seen = run("train", str(copy), "--resume")
    assert seen.code == 2 and "was started with another config" in seen.err


def test_an_evaluation_of_faults_breaks_like_a_step_of_faults(run: Command, trained: Path, tmp_path: Path):
    (tmp_path / "gone.py").write_text(
        "from phronesis.envs.native import from_env\n"
        "class Gone:\n"
        "    '''Is gone.'''\n"
        "    def reset(self, task, seed): raise ConnectionError('the world is gone')\n"
        "    def step(self, action): pass\n"
        "    def close(self): pass\n"
        "def make():\n"
        "    return from_env(Gone, {'train': [{'prompt': 'a'}], 'heldout': [{'prompt': 'b'}]}, name='gone')\n"
    )
    seen = run("eval", str(trained), "env.name=gone:make", "--tasks", "2")
    assert seen.code == 1
    assert "all 2 episodes of an evaluation of 'gone' faulted" in seen.err
    assert "ConnectionError in env.reset: the world is gone" in seen.err
