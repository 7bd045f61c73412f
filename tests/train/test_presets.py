"""Algorithms by name: what each sets, that settings win over it, that nothing of another leaks in, and that each one trains."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
import torch
from msgspec.structs import replace
from tiny_jobs import Stopped, config, essence, stop_at, weights

from phronesis.config import load as load_plain
from phronesis.config import to_toml
from phronesis.credit import OPDCredit
from phronesis.errors import ConfigError, UnknownName
from phronesis.rollout.limits import Limits
from phronesis.store import Run
from phronesis.train import checkpoint, job, presets, recipes
from phronesis.train.config import EnvChoice, EvalConfig, ModelConfig, RunConfig
from phronesis.train.learner import LearnerConfig
from phronesis.train.metrics import undefined
from phronesis.train.optimizer import AdamWConfig, Constant, Stepper

BASE = recipes.get("quickstart")


def flat(value: object, path: str = "") -> dict[str, object]:
    """A config as dotted paths."""
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{path}.{key}" if path else key).items()}
    return {path: value}


def settings(name: str, **given: str) -> dict[str, object]:
    return flat(msgspec.to_builtins(presets.apply(name, BASE, **given)))


PPO = {"learner.loss.objective.type": "ppo_clip", "learner.loss.objective.eps_low": 0.2}
SEQUENCES, TOKENS, HORIZON = (
    {"learner.loss.aggregation.type": "sequence_mean_token_mean"},
    {"learner.loss.aggregation.type": "token_mean"},
    {"learner.loss.aggregation.type": "constant_norm", "learner.loss.aggregation.horizon": 14 * 48},
)
Z = {"credit.type": "trajectory", "credit.baseline.type": "grpo", "credit.baseline.population": False}
MEAN = {"credit.type": "trajectory", "credit.baseline.type": "dr_grpo"}
TWICE, ONCE = {"learner.epochs": 2, "learner.minibatches": 1}, {"learner.epochs": 1, "learner.minibatches": 1}
PLAIN = {"learner.loss.objective.type": "reinforce", **HORIZON, **ONCE}
NO_KL = {"learner.loss.kl": None}
DIS = {
    "learner.loss.objective.type": "dis", "learner.loss.objective.eps_low": 0.3, "learner.loss.objective.eps_high": 5.0,
    "learner.old": "sampler",
}  # fmt: skip
PAIRS = {**TWICE, **NO_KL, "lesson.type": "pairs", "lesson.objective.beta": 0.1, "lesson.margin": 0.0, "group_size": 8}
EXPECTED: dict[str, dict[str, object]] = {
    "grpo": {
        **Z, **PPO, **SEQUENCES, **TWICE, "learner.loss.objective.eps_high": 0.2, "learner.loss.kl.type": "loss",
        "learner.loss.kl.coef": 0.04, "learner.loss.kl.estimator": "k3", "batch.drop_silent": False,
    },
    "dr_grpo": {**MEAN, **PPO, **HORIZON, **TWICE, **NO_KL, "learner.loss.objective.eps_high": 0.2},
    "dapo": {
        **Z, **PPO, **TOKENS, **TWICE, **NO_KL, "learner.loss.objective.eps_high": 0.28, "dynamic.max_rounds": 10,
        "batch.drop_truncated": True,
    },
    "rloo": {**PLAIN, **NO_KL, "credit.type": "trajectory", "credit.baseline.type": "rloo"},
    "reinforce": {**PLAIN, "credit.type": "turn_return", "credit.gamma": 1.0, "credit.baseline.type": "none"},
    "reinforce_pp": {**PPO, **TOKENS, **TWICE, "credit.type": "reinforce_pp", "credit.gamma": 1.0},
    "ppo": {
        **PPO, **TOKENS, **TWICE, "credit.type": "gae", "credit.gamma": 1.0, "credit.lam": 0.95, "credit.critic_lam": 1.0,
        "credit.whiten": True, "critic.clip": 0.2, "critic.epochs": 2, "critic.optimizer.lr": 8e-4, "critic.trunk": "copy",
    },
    "gspo": {
        **Z, **SEQUENCES, **TWICE, "learner.loss.objective.type": "gspo", "learner.loss.objective.eps_low": 3e-4,
        "learner.loss.objective.eps_high": 4e-4,
    },
    "cispo": {**Z, **TOKENS, **TWICE, "learner.loss.objective.type": "cispo", "learner.loss.objective.cap": 1.28},
    "gppo": {
        **Z, **TOKENS, **TWICE, "learner.loss.objective.type": "gppo", "learner.loss.objective.eps_high": 0.28,
        "learner.loss.objective.dual": None,
    },
    "sapo": {
        **Z, **SEQUENCES, "learner.loss.objective.type": "sapo", "learner.loss.objective.tau_pos": 1.0,
        "learner.loss.objective.tau_neg": 1.05,
    },
    "dis": {**MEAN, **DIS, **TOKENS, **TWICE},
    "m2po": {**Z, **TOKENS, **TWICE, "learner.loss.objective.tau": 0.04, "learner.old": "sampler"},
    "maxrl": {**PLAIN, "credit.type": "trajectory", "credit.baseline.type": "maxrl"},
    "gigpo": {
        **PPO, **SEQUENCES, **TWICE, "credit.type": "gigpo", "credit.omega": 1.0, "credit.gamma": 0.95,
        "credit.episode.type": "dr_grpo", "credit.step.type": "dr_grpo",
    },
    "spo": {
        **PPO, **TOKENS, **TWICE, "credit.type": "spo_chain", "credit.every": 5, "credit.below": 0.9, "credit.cut": "token",
        "player.type": "alone",
    },
    "vineppo": {**PPO, **TOKENS, **TWICE, "credit.type": "vineppo", "credit.rollouts": 9},
    "empg": {"credit.type": "empg", "credit.k": 1.0, "credit.k_f": 1.0, "credit.zeta": 0.1},
    "glm5_reasoning": {
        **Z, **PPO, **SEQUENCES, **ONCE, **NO_KL, "learner.loss.objective.eps_high": 0.28, "group_size": 32, "groups": 8,
        "learner.loss.corrections": ({"type": "icepop", "beta": 2.0},),
    },
    "glm5_agentic": {
        **MEAN, **DIS, **TOKENS, **TWICE, **NO_KL, "learner.reset": True, "batch.repair": True, "group_size": 8,
    },
    "sao": {
        **DIS, **TOKENS, "credit.type": "sao", "credit.alpha": 1.5, "group_size": 1, "groups": 64, "critic.frozen": "attention",
        "critic.warmup": 10, "critic.epochs": 2, "critic.optimizer.lr": 5 * 8e-4,
    },
    "archer": {
        **TOKENS, **ONCE, **NO_KL, "credit.type": "archer", "credit.gamma": 0.9, "learner.loss.objective.type": "reinforce",
        "critic.epochs": 3, "critic.clip": None, "critic.twins.polyak": 0.1, "critic.twins.capacity": 1024, "group_size": 8,
    },
    "opd": {
        **ONCE, **TOKENS, "credit.type": "opd", "credit.teacher": "far/away", "credit.coef": 1.0, "group_size": 1, "groups": 64,
        "learner.loss.objective.type": "reinforce",
    },
    "arpo": {
        **PPO, **TOKENS, **TWICE, **NO_KL, "credit.type": "arpo", "credit.prefix": "hard", "credit.baseline.type": "grpo",
        "player.type": "arpo", "player.initial": 8, "player.beam": 2, "player.tokens": 20, "player.weight": 0.2,
        "player.threshold": 0.5, "group_size": 16,
    },
    "treerpo": {
        **PPO, **TOKENS, **TWICE, **NO_KL, "credit.type": "tree", "credit.against": "siblings", "credit.scale": True,
        "player.type": "tree", "player.widths": (2, 2, 2), "group_size": 8,
    },
    "earl": {
        **PPO, **TOKENS, **TWICE, **NO_KL, "credit.type": "earl", "credit.baseline.type": "grpo", "player.type": "earl",
        "player.temperature": 10.0, "player.top_k": 10, "player.top_p": 0.9, "player.decay": 0.9,
    },
    "star": {
        **TOKENS, "lesson.type": "rationalise", "lesson.success": None, "lesson.attempts": 1, "lesson.cap": 4,
        "credit.type": "verified", "credit.success": 1.0, "credit.cap": 4, "learner.restart": True, "learner.epochs": 8,
        "learner.loss.objective.type": "supervised",
    },
    "raft": {**TOKENS, "credit.type": "verified", "credit.success": 1.0, "credit.cap": 4,
             "learner.loss.objective.type": "supervised"},
    "gkd": {
        **TOKENS, **ONCE, **NO_KL, "lesson.type": "distil", "lesson.teacher": "far/away", "lesson.traces": 0.0,
        "learner.loss.objective.type": "gkd", "learner.loss.objective.beta": 0.5, "learner.loss.objective.top": None,
        "group_size": 1, "groups": 64, "learner.average": None,
    },
    "sdpo": {
        **TOKENS, **ONCE, **NO_KL, "lesson.type": "self_distil", "lesson.success": 1.0, "learner.loss.objective.type": "sdpo",
        "learner.loss.objective.alpha": 0.5, "learner.loss.objective.top": 100, "learner.loss.objective.of": "student",
        "learner.loss.corrections": ({"type": "tis_token", "cap": 2.0, "of": "theta"},), "learner.average": 0.05,
        "group_size": 8, "groups": 8,
    },
    "rlag": {
        **TWICE, "lesson.type": "rlag", "lesson.beta_d": 0.2, "lesson.beta_a": 0.5, "lesson.gamma": 8.0,
        "lesson.chosen_max": -0.2, "lesson.rejected_min": -5.0, "group_size": 1, "groups": 64,
    },
    "dpo": {**PAIRS, "lesson.objective.type": "dpo", "lesson.compare": "attempts"},
    "step_dpo": {**PAIRS, "lesson.objective.type": "dpo", "lesson.compare": "first_step"},
    "step_apo": {**PAIRS, "lesson.objective.type": "step_apo", "lesson.compare": "steps"},
}  # fmt: skip
"""Written by hand from the sources."""


@pytest.mark.parametrize("name", EXPECTED)
def test_a_preset_sets_what_its_source_says(name: str):
    found = settings(name, **({"teacher": "far/away"} if name in ("opd", "gkd") else {}))
    wanted = EXPECTED[name]
    assert {path: found.get(path) for path in wanted} == wanted
    for path in ("critic", "dynamic", "lesson"):  # what a preset does not name is not there
        if not any(key.startswith(path) for key in wanted):
            assert found[path] is None
    untouched = ("seed", "steps", "env.name", "learner.optimizer.lr", "learner.schedule.warmup", "evaluation.tasks", "threads")
    assert {p: found[p] for p in untouched} == {p: flat(msgspec.to_builtins(BASE))[p] for p in untouched}
    assert found["name"] == f"quickstart-{name}"


def test_every_preset_says_what_it_is_and_where_it_is_from():
    for name in presets.names():
        said = presets.explanation(name)
        assert "Source: " in said and presets.summary(name).endswith((".", ")")), name
        assert presets.summary(name) == said.partition("\n")[0], name
    assert presets.ingredients("opd") == ["teacher"] and presets.ingredients("grpo") == []


def test_missing_ingredients_are_named():
    with pytest.raises(ConfigError, match=r"needs a teacher: set credit\.teacher=FOLDER"):
        presets.load(overrides=["algorithm=opd"], base=BASE)
    with pytest.raises(ConfigError, match=r"set credit\.answer=KEY"):
        presets.load(overrides=["algorithm=igpo"], base=BASE)
    with pytest.raises(UnknownName, match="unknown algorithm 'vinepo'; did you mean 'vineppo'"):
        presets.load(overrides=["algorithm=vinepo"], base=BASE)
    with pytest.raises(ConfigError, match="algorithm: expected a name, got 3"):
        presets.load(overrides=["algorithm=3"], base=BASE)


def test_what_is_set_beside_or_above_wins(tmp_path: Path):
    own = ["learner.loss.objective.eps_high=0.5", "group_size=16"]
    above = presets.load(overrides=[*own, "algorithm=dapo"], base=BASE)
    assert above == presets.load(overrides=["algorithm=dapo", *own], base=BASE)
    assert above == load_plain(RunConfig, overrides=own, base=presets.apply("dapo", BASE))
    assert (above.group_size, above.learner.optimizer) == (16, BASE.learner.optimizer)
    file = tmp_path / "mine.toml"
    file.write_text('algorithm = "gspo"\nname = "own"\n[learner]\nepochs = 3\n[learner.loss.objective]\neps_low = 0.001\n')
    beside = presets.load([file], base=BASE)
    assert (beside.name, beside.learner.epochs) == ("own", 3)
    assert flat(msgspec.to_builtins(beside.learner.loss.objective)) == {"type": "gspo", "eps_low": 0.001, "eps_high": 4e-4}


def test_it_replaces_what_lies_below_the_place_that_names_it(tmp_path: Path):
    file = tmp_path / "whole.toml"
    file.write_text(to_toml(BASE))
    assert presets.load([file], ["algorithm=gspo"]) == presets.apply("gspo", BASE)
    file.write_text('name = "short"\nalgorithm = "gspo"\n')
    assert presets.load([file], ["algorithm=rloo"]).credit == presets.apply("rloo", BASE).credit
    assert presets.load([file]).name == "short" and presets.load([file], ["algorithm=rloo"]).name == "short-rloo"
    file.write_text('algorithm = "gspo"\n')
    assert presets.load([file]) == replace(presets.apply("gspo", RunConfig(name="x")), name="gspo")


def test_a_resolved_config_needs_no_preset_to_be_read_again(tmp_path: Path):
    resolved = presets.load(overrides=["algorithm=sao", "critic.warmup=2"], base=BASE)
    assert resolved.critic is not None and (resolved.critic.warmup, resolved.critic.frozen) == (2, "attention")
    (tmp_path / "again.toml").write_text(to_toml(resolved))
    assert load_plain(RunConfig, [tmp_path / "again.toml"]) == presets.load([tmp_path / "again.toml"]) == resolved


def test_nothing_of_another_algorithm_is_left():
    for first in ("sao", "dapo", "glm5_agentic"):
        for second in ("gspo", "rloo"):
            twice = presets.apply(second, presets.apply(first, replace(BASE, group_size=8)))
            once = presets.apply(second, BASE)
            sizes = {"groups": once.groups, "group_size": once.group_size, "name": once.name}
            assert replace(twice, **sizes) == once


def test_a_preset_sees_the_settings_around_it():
    seen = presets.load(
        overrides=["algorithm=dr_grpo", "limits.max_turns=3", "limits.max_turn_tokens=10", "credit.baseline.type=rloo"],
        base=BASE,
    )
    assert flat(msgspec.to_builtins(seen.learner.loss.aggregation)) == {"type": "constant_norm", "horizon": 30}
    assert settings("rloo")["learner.loss.aggregation.horizon"] == 14 * 48
    capped = presets.apply("rloo", replace(BASE, limits=Limits(max_tokens=77)))
    assert msgspec.to_builtins(capped.learner.loss.aggregation)["horizon"] == 77
    assert presets.load(overrides=["algorithm=sao", "learner.optimizer.lr=1e-4"], base=BASE).critic == (
        presets.apply("sao", load_plain(RunConfig, overrides=["learner.optimizer.lr=1e-4"], base=BASE)).critic
    )


def test_ingredients_are_read_where_the_algorithm_is_named_or_above(tmp_path: Path):
    assert presets.load(overrides=["algorithm=opd", "credit.teacher=a/b"], base=BASE).credit == OPDCredit(teacher="a/b")
    file = tmp_path / "mine.toml"
    file.write_text('algorithm = "opd"\n[credit]\nteacher = "weak"\ncoef = 0.5\n')
    assert presets.load([file], ["credit.teacher=strong"], BASE).credit == OPDCredit(teacher="strong", coef=0.5)


@pytest.fixture(scope="module")
def primed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A primed model, to start every preset from; it answers, half of the time rightly."""
    folder = tmp_path_factory.mktemp("primed") / "run"
    start = config(env=EnvChoice(name="lessons:memory"), evaluation=EvalConfig(tasks=0), steps=1, checkpoint_every=1)
    job.run(start, folder)
    return folder / "checkpoints" / "step-00000000"


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_trains(tmp_path: Path, primed: Path, name: str):
    run = config(
        env=EnvChoice(name="lessons:memory"),
        model=ModelConfig(path=str(primed)),
        prime=None,
        evaluation=EvalConfig(tasks=0),
        steps=2,
    )
    needed = {"opd": {"teacher": str(primed)}, "gkd": {"teacher": str(primed)}, "igpo": {"answer": "letter"}}.get(name, {})
    chosen = presets.apply(name, run, **needed)
    if name in ("sao", "archer"):
        assert chosen.critic is not None
        chosen = replace(chosen, critic=replace(chosen.critic, warmup=0))
    chosen.validate()
    job.run(chosen, tmp_path / "run")
    assert weights(tmp_path / "run", 0) != weights(tmp_path / "run", 2)
    with Run.open(tmp_path / "run") as done:
        assert undefined(k for s in done.steps() for k in s.values) == ()
        tokens, losses = ([v for _, v in done.curve(key)] for key in ("update/tokens", "update/loss"))
        assert len(tokens) == 2 and max(tokens) > 0 and all(map(math.isfinite, losses))


@pytest.mark.parametrize(("reset", "remembered"), [(True, 2.0), (False, 4.0)])
def test_the_optimiser_begins_anew_with_every_push_of_weights(tmp_path: Path, primed: Path, reset: bool, remembered: float):
    """Two steps of two passes each: the optimiser remembers those of the last step, or all."""
    run = config(
        env=EnvChoice(name="lessons:memory"), model=ModelConfig(path=str(primed)), prime=None, evaluation=EvalConfig(tasks=0)
    )
    agentic = presets.apply("glm5_agentic", replace(run, steps=2, groups=8))
    learner = replace(agentic.learner, reset=reset, optimizer=AdamWConfig(lr=1e-4))
    job.run(replace(agentic, learner=learner), tmp_path / "run")
    with Run.open(tmp_path / "run") as done:
        assert min(v for _, v in done.curve("update/tokens")) > 0
    parts = checkpoint.load(tmp_path / "run" / "checkpoints" / "step-00000002").learner["stepper"]["parts"]
    assert {float(s["step"]) for s in parts[0]["state"].values()} == {remembered}


def test_forgetting_makes_the_next_step_a_first_one():
    """AdamW's first step has the size of the learning rate whatever the gradient; a later one remembers what came before."""
    moves = {}
    for forget in (False, True):
        weight = torch.nn.Parameter(torch.zeros(1))
        stepper = Stepper([("w", weight)], AdamWConfig(lr=0.1), Constant())
        for gradient in (1.0, -1.0):
            before = float(weight.detach())
            weight.grad = torch.full((1,), gradient)
            stepper.step()
            if forget:
                stepper.forget()
        moves[forget] = float(weight.detach()) - before
        assert stepper.steps == 2
    assert moves[True] == pytest.approx(0.1, abs=1e-6)
    # mean (.9 * .1 - .1) / (1 - .81), mean square 1
    assert moves[False] == pytest.approx(0.1 * 0.01 / 0.19, abs=1e-6)


def test_star_learns_from_the_base_model_every_round_and_resumes_bit_for_bit(tmp_path: Path, primed: Path):
    base = config(
        env=EnvChoice(name="lessons:memory"), model=ModelConfig(path=str(primed)), prime=None, evaluation=EvalConfig(tasks=0)
    )
    chosen = replace(presets.apply("star", base), steps=3, checkpoint_every=1)
    job.run(chosen, tmp_path / "whole")
    saved = [checkpoint.load(tmp_path / "whole" / "checkpoints" / f"step-0000000{k}") for k in range(4)]
    start = saved[0].decoder.state_dict()
    assert all(torch.equal(saved[3].learner["base"][name], tensor) for name, tensor in start.items())
    lr = base.learner.optimizer.peak
    for later in saved[1:]:  # eight AdamW steps from the base move no weight further than about eight learning rates
        moved = max(float((later.decoder.state_dict()[n] - t).abs().max()) for n, t in start.items())
        assert 0 < moved < 8 * lr * 1.5
        assert {float(s["step"]) for s in later.learner["stepper"]["parts"][0]["state"].values()} == {8.0}
    with pytest.raises(Stopped):
        job.run(chosen, tmp_path / "cut", listener=stop_at("train", 2))
    job.run(chosen, tmp_path / "cut", resume=True)
    assert essence(tmp_path / "whole", 3) == essence(tmp_path / "cut", 3)


def test_restarting_is_for_supervised_objectives():
    with pytest.raises(ConfigError, match="which no ratio can answer for"):
        LearnerConfig(restart=True)
