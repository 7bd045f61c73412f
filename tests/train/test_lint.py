"""The look over a run's settings: each rule fires on its case and nowhere else, and what it says reaches the person."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from tiny_jobs import config, events

from phronesis.errors import ConfigError
from phronesis.losses import LossConfig, PPOClipLoss, TokenTIS
from phronesis.train import job, lint, presets, recipes
from phronesis.train.config import EvalConfig
from phronesis.train.learner import LearnerConfig
from phronesis.view import folder as view
from phronesis.view.alarms import findings

ROOT = Path(__file__).parents[2]
BASE = recipes.get("quickstart")
OBJECTIVE, AGGREGATION, CORRECTIONS = (f"learner.loss.{part}" for part in ("objective.type", "aggregation.type", "corrections"))
TIS = f"{CORRECTIONS}=[{{type='tis_token'}}]"
KL = "learner.loss.kl"
GKD = ["algorithm=gkd", "lesson.teacher=x"]
PER_SEQUENCE = f"{AGGREGATION}=sequence_mean_token_mean"

CASES: list[tuple[str, list[str], str]] = [
    ("clipping-inert", ["learner.epochs=1"], "'ppo_clip' sees a ratio of 1"),
    ("clipping-inert", ["learner.epochs=1", f"{OBJECTIVE}=cispo"], "'cispo'"),
    ("unclipped-stale", [f"{OBJECTIVE}=reinforce"], "2 times"),
    ("unclipped-stale", [f"{OBJECTIVE}=reinforce", "learner.minibatches=2", TIS], "4 times"),
    ("anchor-drifts", ["learner.precision=bf16"], "precision 'bf16'"),
    ("anchor-drifts", ["learner.mismatch_error=5"], "mismatch_error 5.0"),
    ("double-weight", [f"{CORRECTIONS}=[{{type='tis_token', of='theta'}}]"], "theta over old"),
    ("double-weight", [f"{OBJECTIVE}=dis", TIS], "'dis' by theta over sampler"),
    ("double-weight", [f"{OBJECTIVE}=decoupled_ppo", f"{CORRECTIONS}=[{{type='icepop'}}]"], "does so itself"),
    ("double-weight", [f"{CORRECTIONS}=[{{type='tis_token'}}, {{type='icepop'}}]"], "tis_token and icepop each multiply"),
    ("anchor-drifts", ["learner.precision=bf16", f"{CORRECTIONS}=[{{type='opsm'}}]"], "precision 'bf16'"),
    ("kl-reward-lost", [f"{OBJECTIVE}=supervised", f"{KL}.type=reward", f"{KL}.coef=0.1", "batch.drop_silent=false",
                        "credit.type=verified"], "reads no credit"),
    ("kl-reward-lost", [f"{OBJECTIVE}=sdar", f"{KL}.type=reward", f"{KL}.coef=0.1", "batch.drop_silent=false",
                        "credit.type=opd", "credit.teacher=x"], "reads the teacher"),
    ("baseline-twice", ["learner.baseline=variance", "batch.drop_silent=false"], "credit 'gigpo' has compared rewards"),
    ("baseline-twice", ["learner.baseline=variance", f"{OBJECTIVE}=supervised", "credit.type=verified",
                        "batch.drop_silent=false"], "'supervised' reads none"),
    ("silent-dropped", ["learner.baseline=variance", "credit.type=trajectory", "credit.baseline.type=none"], "least variance"),
    ("credit-unplayed", ["credit.type=plan"], "several attempts that share a plan"),
    ("credit-unplayed", ["credit.type=arpo"], "which player 'alone' does not play (player 'arpo' does)"),
    ("branches-unread", ["player.type=tree", "player.widths=[2, 4]"], "plays for credit 'tree' or 'arpo'"),
    ("lesson-forks", ["player.type=earl", "lesson.type=self_distil", f"{OBJECTIVE}=sdpo", "learner.epochs=1",
                      "learner.minibatches=1"], "lesson 'self_distil' takes forced attempts for free ones"),
    ("dynamic-blind", ["dynamic.max_rounds=5", "credit.type=vineppo", PER_SEQUENCE], "credit 'vineppo'"),
    ("correction-inert", ["learner.old=sampler", f"{CORRECTIONS}=[{{type='icepop'}}, {{type='veto'}}]"], "icepop, veto"),
    ("sapo-decoupled", [f"{OBJECTIVE}=sapo", PER_SEQUENCE, TIS], "tis_token"),
    ("sequence-product", [f"{CORRECTIONS}=[{{type='tis_seq'}}]"], "672 tokens: 2 % a token would make 6.02e+05"),
    ("sequence-product", [f"{OBJECTIVE}=vespo"], "vespo"),
    ("kl-k3", [f"{KL}.type=loss", f"{KL}.coef=0.1", f"{KL}.estimator=k3", "batch.drop_silent=false"], "KL(ref || pi)"),
    ("truncated-sampling", ["sampling.top_p=0.9"], "top_p 0.9"),
    ("truncated-sampling", ["sampling.top_k=5"], "top_k 5"),
    ("truncated-sampling", ["sampling.min_p=0.1"], "min_p 0.1"),
    ("temperature", ["sampling.temperature=0.7"], "temperature 0.7"),
    ("lone-group", ["group_size=1"], "under credit 'gigpo'"),
    ("lone-group", ["group_size=1", "credit.type=tree"], "under credit 'tree'"),
    ("lone-group", ["group_size=1", "credit.type=hierarchical"], "under credit 'hierarchical'"),
    ("kl-cov-unbound", [f"{OBJECTIVE}=kl_cov"], "2 times and clips no ratio"),
    ("opsm-inert", [f"{OBJECTIVE}=reinforce", "learner.epochs=1", f"{CORRECTIONS}=[{{type='opsm'}}]"], "one update from it"),
    ("normalise-inert", ["learner.loss.normalise_weights=true"], "corrections: none"),
    ("normalise-inert", ["learner.loss.normalise_weights=true", f"{CORRECTIONS}=[{{type='veto'}}]"], "corrections: veto"),
    ("kl-stale", [f"{KL}.type=loss", f"{KL}.coef=0.1", f"{KL}.estimator=k2", "batch.drop_silent=false"], "from 2 times"),
    ("kl-stale", [f"{KL}.type=loss", f"{KL}.coef=0.1", "batch.drop_silent=false"], "k3plus in the loss"),
    ("maxrl-negative", ["credit.type=igpo", "credit.answer=x", "credit.baseline.type=maxrl"], "credit 'igpo'"),
    ("maxrl-negative", ["credit.type=vsrm", "credit.baseline.type=maxrl"], "credit 'vsrm'"),
    ("scaled-shaping", ["credit.type=vsrm", "credit.baseline.type=grpo"], "'vsrm' divides shaped rewards"),
    ("scaled-shaping", ["credit.type=potential", "credit.metric=x", "credit.baseline.type=best_only"], "'potential' divides"),
    ("scaled-shaping", ["credit.step.type=grpo"], "'gigpo' divides shaped rewards"),
    ("critic-missing", ["credit.type=gae"], "'gae' asks a critic"),
    ("critic-idle", ["critic.epochs=2"], "'gigpo' never asks"),
    ("scaled-shaping", ["credit.type=turn_return", "credit.baseline.type=grpo"], "'turn_return' divides shaped rewards"),
    ("teacher-unread", [f"{OBJECTIVE}=sdar"], "credit is 'gigpo'"),
    ("teacher-unread", [f"{OBJECTIVE}=xstage", "credit.type=opd", "credit.teacher=x", "credit.coef=2"], "credit is 'opd'"),
    ("learns-from-failures", [f"{OBJECTIVE}=supervised"], "'supervised' reads no advantages"),
    ("step-grows-with-length", [f"{AGGREGATION}=sequence_mean_token_sum"], "672 tokens"),
    ("step-grows-with-length", [f"{AGGREGATION}=constant_norm", "learner.loss.aggregation.horizon=100"], "horizon 100"),
    ("step-grows-with-length", [f"{OBJECTIVE}=luspo", PER_SEQUENCE], "'luspo'"),
    ("sequence-objective", [f"{OBJECTIVE}=gspo"], "'gspo' under aggregation 'token_mean'"),
    ("silent-dropped", ["learner.loss.entropy_bonus=0.01", "learner.entropy=true"], "the entropy bonus should"),
    ("silent-dropped", ["learner.loss.kl.type=reward", "learner.loss.kl.coef=0.1"], "the divergence from the reference"),
    ("silent-dropped", [f"{OBJECTIVE}=dppo_tv"], "the pull of objective 'dppo_tv'"),
    ("denominator-moves", ["dynamic.max_rounds=5"], "as in DAPO"),
    ("denominator-moves", ["batch.count_silent=false"], "batch.count_silent is off"),
    ("observations-unheard", ["learner.loss.observations=0.1", "batch.drop_silent=false"], "observations 0.1"),
    ("pairs-alone", ["lesson.type=pairs", "group_size=1", f"{OBJECTIVE}=reinforce", f"{AGGREGATION}=token_mean",
                     "credit.type=reinforce_pp"], "under lesson 'pairs'"),
    ("lesson-objective", ["lesson.type=self_distil"], "objective 'ppo_clip' does not read"),
    ("lesson-objective", [f"{OBJECTIVE}=gkd"], "nobody gives it a teacher's"),
    ("hints-alone", ["lesson.type=self_distil", "lesson.feedback=", "group_size=1", f"{OBJECTIVE}=sdpo",
                     "learner.epochs=1", "credit.type=reinforce_pp"], "without feedback"),
    ("baseline-twice", ["learner.baseline=variance", "algorithm=dpo"], "lesson 'pairs' reads none"),
    ("baseline-twice", ["learner.baseline=variance", "algorithm=rlag"], "lesson 'rlag' reads none"),
    ("baseline-twice", ["learner.baseline=variance", "algorithm=sdpo"], "objective 'sdpo' reads none"),
    ("baseline-twice", ["learner.baseline=variance", *GKD], "objective 'gkd' reads none"),
    ("credit-unread", ["algorithm=dpo", "credit.type=vineppo"], "'vineppo' plays episodes once more, and lesson 'pairs'"),
    ("credit-unread", ["algorithm=sdpo", "credit.type=gae", "critic.epochs=1"], "'gae' trains and asks a critic"),
    ("credit-unread", ["algorithm=rlag", "credit.type=opd", "credit.teacher=x"], "'opd' asks a teacher"),
    ("credit-unread", ["algorithm=sdpo", "credit.type=igpo", "credit.answer=x"], "'igpo' asks the policy or a judge"),
    ("step-size-unsampled", ["algorithm=dpo", "learner.step_size=effective"], "the texts of lesson 'pairs'"),
    ("step-size-unsampled", ["algorithm=rlag", "learner.step_size=effective"], "the texts of lesson 'rlag'"),
    ("learner-unread", ["algorithm=dpo", "learner.old=sampler"], "learner.old does nothing under lesson 'pairs'"),
    ("learner-unread", ["algorithm=rlag", "learner.reset=true", "learner.average=0.1", "batch.drop_truncated=true"],
     "learner.reset and learner.average and batch.drop_truncated do nothing under lesson 'rlag'"),
    ("distil-stale", [*GKD, "learner.epochs=2", "learner.minibatches=2"], "'gkd' learns from each batch 4 times"),
    ("distil-stale", ["algorithm=sdpo", "learner.epochs=2", f"{CORRECTIONS}=[]"], "'sdpo' learns from each batch 2 times"),
    ("rlag-attempts", ["algorithm=rlag", "group_size=4"], "group_size is 4"),
    ("loss-unread", ["lesson.type=pairs"], "'pairs' has a loss of its own"),
    ("dynamic-blind", ["dynamic.max_rounds=5", "credit.type=gae", "critic.epochs=1", PER_SEQUENCE], "under a critic"),
]  # fmt: skip
"""Rule, settings over quickstart, a piece of the reason."""


@pytest.mark.parametrize(("rule", "changes", "reason"), CASES, ids=lambda v: v if isinstance(v, str) else None)
def test_a_rule_fires_on_its_case_alone(rule: str, changes: list[str], reason: str):
    found = lint.lint(presets.load(overrides=changes, base=BASE))
    assert [f.rule for f in found] == [rule]
    assert reason in found[0].reason and found[0].line == f"{rule}: {found[0].reason}. {found[0].fix}"


def test_every_rule_has_a_case_and_a_name_of_its_own():
    ids = [rule.id for rule in lint.RULES]
    assert set(ids) == {rule for rule, _, _ in CASES} and len(set(ids)) == len(ids)


@pytest.mark.parametrize("recipe", recipes.names())
def test_shipped_recipes_are_silent(recipe: str):
    assert lint.lint(recipes.get(recipe)) == []


KNOWN = {
    "grpo": ["kl-k3"],
    "dapo": ["denominator-moves"],
    "luspo": ["step-grows-with-length"],
    "vespo": ["sequence-product"],
    "glm5_reasoning": ["clipping-inert"],
}
"""Presets whose sources do what a rule points out."""


def test_presets_have_the_findings_their_sources_have():
    needed = {"opd": {"teacher": "x"}, "gkd": {"teacher": "x"}, "igpo": {"answer": "x"}}
    for name in presets.names():
        run = presets.apply(name, BASE, **needed.get(name, {}))
        assert [f.rule for f in lint.lint(run)] == KNOWN.get(name, []), name


def test_what_answers_a_rule_silences_it():
    for changes in (
        [f"{OBJECTIVE}=reinforce", f"{CORRECTIONS}=[{{type='tis_token', of='theta'}}]"],
        [f"{OBJECTIVE}=reinforce", "learner.epochs=1"],
        ["learner.precision=bf16", TIS],
        ["learner.epochs=1", "learner.old=sampler"],
        [f"{CORRECTIONS}=[{{type='tis_seq'}}]", "limits.max_tokens=200"],
        [f"{OBJECTIVE}=supervised", "credit.type=verified"],
        [f"{OBJECTIVE}=gspo", PER_SEQUENCE],
        ["dynamic.max_rounds=5", PER_SEQUENCE],
        [f"{KL}.type=loss", f"{KL}.coef=0.1", f"{KL}.estimator=unbiased", "batch.drop_silent=false"],
        ["learner.loss.normalise_weights=true", f"{CORRECTIONS}=[{{type='opsm', reject=false}}]"],
        ["learner.epochs=1", f"{OBJECTIVE}=reinforce", f"{CORRECTIONS}=[{{type='opsm', of='infer'}}]"],
        ["credit.type=vsrm"],
        ["learner.baseline=variance", "credit.type=trajectory", "credit.baseline.type=none", "batch.drop_silent=false"],
        ["credit.episode.type=maxrl"],
        ["algorithm=sdpo", "learner.epochs=4"],
        ["algorithm=sdpo", "learner.step_size=effective", "batch.drop_truncated=true", "batch.repair=true"],
        [*GKD, "batch.drop_silent=true", f"{KL}.type=loss", f"{KL}.coef=0.1"],
        ["algorithm=star", "learner.reset=true"],
        ["steps=0", "learner.epochs=1", "sampling.temperature=0.7"],
    ):
        assert lint.lint(presets.load(overrides=changes, base=BASE)) == [], changes


def test_a_refused_run_never_begins(tmp_path: Path):
    loss = LossConfig(objective=PPOClipLoss(), corrections=(TokenTIS(of="theta"),))
    with pytest.raises(ConfigError, match=r"^double-weight: correction 'tis_token' .* Leave the correction out"):
        job.run(config(learner=LearnerConfig(loss=loss)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_warned_run_says_so_in_its_folder_and_report(tmp_path: Path):
    loss = LossConfig(objective=PPOClipLoss())
    warned = config(learner=LearnerConfig(loss=loss), steps=1, evaluation=EvalConfig(tasks=0))
    job.run(warned, tmp_path / "run")
    job.run(warned, tmp_path / "run", resume=True)  # says it once
    (said,) = events(tmp_path / "run", "lint")
    assert said.startswith("clipping-inert: objective 'ppo_clip'")
    shown = [f.text for f in findings(view.load(tmp_path / "run")) if f.check == "Settings"]
    assert shown == [said]
    job.run(replace(warned, learner=replace(warned.learner, epochs=2)), tmp_path / "calm")
    assert events(tmp_path / "calm", "lint") == []


def test_the_documentation_holds_the_table_of_rules():
    page = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    again = "python -c 'from phronesis.train import lint; print(lint.markdown())'"
    assert lint.markdown() in page, f"put what this prints into docs/presets.md: {again}"


def test_the_documentation_names_every_algorithm():
    page = (ROOT / "docs" / "presets.md").read_text(encoding="utf-8")
    again = "python -c 'from phronesis.train import presets; print(presets.markdown())'"
    assert presets.markdown() in page, f"put what this prints into docs/presets.md: {again}"
