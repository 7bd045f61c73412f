"""Bad input to a run: a typed error that says what to change, exit code 2, and nothing begun or lost."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import own_worlds
import pytest
from tiny_jobs import config, weights

from phronesis.cli.main import main
from phronesis.credit import NoBaseline, TrajectoryCredit
from phronesis.errors import ConfigError, GroupTooSmall, TemplateError, UnknownName, UserError
from phronesis.models.checkpoint import save
from phronesis.models.tiny import TinyModel, tiny
from phronesis.models.tokenizer import save_tokenizer, train_tokenizer
from phronesis.rollout.limits import Limits, Sampling
from phronesis.train import job
from phronesis.train.config import EnvChoice, EvalConfig, ModelConfig, RunConfig

QUIET = ["evaluation.tasks=0"]


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Runs a command; hands back its exit code and what it said on either stream."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger("phronesis")
    before = (root.handlers[:], root.level, root.propagate)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        return (code, *capsys.readouterr())

    yield run
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quickstrat"], "unknown recipe 'quickstrat'; did you mean 'quickstart'"),
        (["quickstart", "stepz=3"], "did you mean 'steps'?"),
        (["quickstart", "learner.optimizer.lrr=3"], "'learner.optimizer.lr'"),
        (["quickstart", "steps=many"], "steps"),
        (["quickstart", "env.name=leger"], "unknown environment 'leger'; did you mean 'ledger'?"),
        (["quickstart", "env.args.bsuy=0.1"], "unknown argument of environment 'ledger' 'bsuy'; did you mean 'busy'?"),
        (["quickstart", "env.name=guess"], "environment 'guess' has no demonstrations to prime on; set prime = \"none\""),
        (["quickstart", "group_size=1"], "group_size 1 with a baseline from the group"),
        (["quickstart", "sampling.temperature=0"], "temperature 0 in training: greedy episodes of a group are identical"),
        (["quickstart", "sampling.temperature=-1"], "sampling.temperature must be at least 0, got -1.0"),
        (["quickstart", "sampling.top_p=0.9"], "top_p, top_k and min_p must be off in training"),
        (["quickstart", "sampling.top_k=5"], "top_p, top_k and min_p must be off in training"),
        (["quickstart", "sampling.top_p=0"], "sampling.top_p must be in (0, 1], got 0.0"),
        (["quickstart", "limits.context=99999"], "limits.context 99999 is more than model.tiny.max_positions"),
        (["quickstart", "limits.max_turns=0"], "limits.max_turns must be positive, got 0"),
        (["quickstart", "limits.thought_tokens=-1"], "limits.thought_tokens must be at least 0 or absent, got -1"),
        (["quickstart", "learner.minibatches=3"], "64 episodes do not divide into learner.minibatches = 3"),
        (["quickstart", "groups=0"], "groups must be at least 1, got 0"),
        (["quickstart", "steps=-1"], "steps must be at least 0, got -1"),
        (["quickstart", "silent_steps=0"], "silent_steps must be at least 1, got 0"),
        (["quickstart", "credit=no_such_package.rules:mine"], "no_such_package"),
        (["quickstart", "credit=phronesis.train.config:RunConfig"], "'phronesis.train.config:RunConfig' cannot be made"),
        (["quickstart", "credit.type=grop"], "credit"),
        (["quickstart", "env.name=own_worlds:unsplit", "env.args={}", "prime.demonstrations=1"], "unknown split"),
        (["absent.toml"], "absent.toml"),
        (["quickstart", "--resume", "--out", "absent"], "absent"),
    ],
)  # fmt: skip
def test_the_command_refuses_before_it_begins(command, words, said, tmp_path):
    code, out, err = command("train", *words, *([] if "--out" in words else ["--out", "run"]))
    assert code == 2, err
    assert err.startswith("error: ") and said in err and out == ""
    assert not (tmp_path / "run").exists() and not (tmp_path / "absent").exists()
    assert "Traceback" not in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"env": EnvChoice(name="own_worlds:unsplit")}, UnknownName, "split .* 'heldout'; known: train"),
        ({"concurrency": 0}, ConfigError, "concurrency must be at least 1"),
        ({"evaluation": EvalConfig(tasks=-1)}, ConfigError, "evaluation.tasks and evaluation.every must be at least 0"),
        ({"limits": Limits(rubric_seconds=0)}, ConfigError, "limits.rubric_seconds must be positive, got 0"),
        ({"limits": Limits(seconds=-1.0)}, ConfigError, "limits.seconds must be positive or absent"),
        ({"sampling": Sampling(min_p=1.0)}, ConfigError, r"sampling.min_p must be in \[0, 1\)"),
        ({"model": ModelConfig(vocab_size=100)}, ConfigError, "vocab_size=100 is too small"),
        ({"model": ModelConfig(path="absent")}, UserError, "'absent' is not a directory"),
        ({"limits": Limits(context=4)}, ConfigError, "limits.context 4 is smaller than the prompt"),
    ],
)  # fmt: skip
def test_impossible_runs_are_typed_errors(tmp_path, changes, kind, said):
    with pytest.raises(kind, match=said):
        job.run(config(**changes), tmp_path / "run")
    assert issubclass(kind, UserError) and issubclass(GroupTooSmall, ConfigError)


def test_greedy_is_refused_only_where_something_is_trained():
    config(sampling=Sampling(temperature=0.0), steps=0).validate()
    config(group_size=1, steps=0, groups=2).validate()
    alone = TrajectoryCredit(baseline=NoBaseline())
    config(group_size=1, groups=2, credit=alone).validate()


SIZES = TinyModel(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16)


def model_folder(path: Path, *, ids: int | None = None, template: bool = True) -> Path:
    tokenizer = train_tokenizer(["Say a."] * 2, 290)
    save(tiny(SIZES, ids or len(tokenizer), 0), path)
    if not template:
        tokenizer.chat_template = None
    save_tokenizer(tokenizer, path)
    return path


def test_a_model_of_ones_own(tmp_path):
    path = model_folder(tmp_path / "model")
    job.run(config(model=ModelConfig(path=str(path)), steps=1, evaluation=EvalConfig(tasks=0)), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "step-00000001" / "tokenizer.json").is_file()


def test_models_that_cannot_be_used(tmp_path, command):
    path = model_folder(tmp_path / "mute", template=False)
    with pytest.raises(TemplateError, match=r"has no chat template; put a 'chat_template\.jinja' beside"):
        job.run(config(model=ModelConfig(path=str(path))), tmp_path / "a")
    small = model_folder(tmp_path / "small", ids=200)
    with pytest.raises(ConfigError, match=r"the tokenizer has \d+ ids, the model 200; use the tokenizer it was made with"):
        job.run(config(model=ModelConfig(path=str(small))), tmp_path / "b")
    (small / "model.safetensors").write_bytes(b"junk")
    code, _, err = command("train", "quickstart", f"model.path={small}", "prime=none", "--out", "c")
    assert code == 2 and "small" in err and err.count("\n") == 1
    (small / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    code, _, err = command("train", "quickstart", f"model.path={small}", "prime=none", "--out", "d")
    assert code == 2 and "mamba" in err


def test_folders_that_hold_no_run(tmp_path, command):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    code, _, err = command("train", "quickstart", "--out", "notes")
    assert code == 2 and "notes" in err
    assert (tmp_path / "notes" / "diary.txt").read_text() == "dear diary" and len(list((tmp_path / "notes").iterdir())) == 1
    (tmp_path / "notes" / "config.toml").write_text("steps = [")
    code, _, err = command("train", "notes", "--resume")
    assert code == 2 and "config.toml" in err
    code, _, err = command("report", "nowhere")
    assert code == 2 and "no run folder 'nowhere'" in err


WORLD = '''
from phronesis.envs.from_tools import from_tools
from phronesis.rewards import FunctionRubric
from phronesis.tool import tool


@tool
def ping() -> str:
    """Pings."""
    return "pong"


def make(rows: int = 2):
    tasks = [{"prompt": f"Ping {i}."} for i in range(rows)]
    return from_tools("theirs", [ping], FunctionRubric(lambda e: e.sampled_tokens % 2), {"train": tasks, "heldout": tasks})
'''

RULE = '''
from phronesis.credit import GroupMean, TrajectoryCredit

CALLS = []


class Mine:
    """Counts its groups."""

    async def assign(self, group, rerun=None):
        CALLS.append(group.id)
        return await TrajectoryCredit(baseline=GroupMean()).assign(group)
'''

FILE = """
name = "theirs"
steps = 2
groups = 2
group_size = 4
prime = "none"
credit = "their_package.their_rule:Mine"

[env]
name = "their_package.their_env:make"
args = { rows = 3 }

[model]
vocab_size = 290
tiny = { width = 16, layers = 1, heads = 2, kv_heads = 1, head_dim = 8, mlp_width = 16 }

[limits]
max_turns = 2
max_turn_tokens = 4

[evaluation]
tasks = 2
greedy = false
"""


def test_pieces_of_ones_own_by_import_path(tmp_path, command):
    """A world and a credit rule of a package nobody installed, named in a config file beside it."""
    package = tmp_path / "their_package"
    package.mkdir()
    for name, text in (("__init__", ""), ("their_env", WORLD), ("their_rule", RULE)):
        (package / f"{name}.py").write_text(text)
    (tmp_path / "mine.toml").write_text(FILE)
    code, out, err = command("train", "mine.toml", "--out", "run", "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert (summary["name"], summary["steps"], summary["heldout_after"]["n"]) == ("theirs", 2, 2)
    assert summary["references"] == {}
    assert sys.modules["their_package.their_rule"].CALLS == ["train-0-0", "train-0-1", "train-1-0", "train-1-1"]
    assert weights(tmp_path / "run", 2)
    for name in [n for n in sys.modules if n.startswith("their_package")]:
        del sys.modules[name]


def test_a_rule_of_ones_own_changes_what_is_learned(tmp_path):
    own_worlds.Reversed.calls = 0
    base = config(steps=2, evaluation=EvalConfig(tasks=0))
    job.run(base, tmp_path / "a")
    job.run(config(steps=2, evaluation=EvalConfig(tasks=0), credit="own_worlds:Reversed"), tmp_path / "b")
    assert own_worlds.Reversed.calls == 4
    assert weights(tmp_path / "a", 0) == weights(tmp_path / "b", 0)
    assert weights(tmp_path / "a", 2) != weights(tmp_path / "b", 2)
    assert isinstance(base, RunConfig)
