"""Runs that learn from whole distributions: a frozen teacher's, and those of the same policy that was shown more."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from sampled_groups import full_logp, make_decoder, make_group
from tiny_jobs import Stopped, config, essence, stop_at

from phronesis.data.traces import Trace
from phronesis.envs import registry
from phronesis.errors import CheckpointError, ConfigError
from phronesis.losses import GeometricReject, GKDLoss, LossConfig, SDPOLoss, TokenMean, VESPOLoss
from phronesis.losses.distillation.distributions import jensen_shannon, sdpo, top_and_tail
from phronesis.losses.distillation.whole import coarsened
from phronesis.models.layout import plan
from phronesis.records import Component, EpisodeGroup, Failure, Reward, Stop
from phronesis.store import Run
from phronesis.train import job, lint, presets, scoring
from phronesis.train.batching import BatchConfig
from phronesis.train.config import EnvChoice, EvalConfig, ModelConfig
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.lessons.distil import DistilLesson, SamePrompt
from phronesis.train.lessons.self_distil import Hinted, SelfDistilLesson, _Row, explained, hints, written
from phronesis.train.lessons.traces import attempts_batch, fitting, joined, scored, traces_batch
from phronesis.train.optimizer import AdamWConfig

QUIET = {"evaluation": EvalConfig(tasks=0)}
STILL = AdamWConfig(lr=1e-30)


def rows(decoder, ids, temperature=1.0):
    """Nats of every id behind every prefix of a sequence, by a plain forward pass."""
    with torch.no_grad():
        logits = decoder.logits(decoder.hidden(torch.tensor(ids), plan([len(ids)], [None])))
    return (logits / temperature).log_softmax(-1)


def expected(student, teacher, groups, measure, temperature=1.0) -> float:
    """Token mean of a divergence over everything sampled."""
    found = []
    for episode in (e for g in groups for e in g.episodes):
        for k, turn in enumerate(episode.turns):
            ids = [*episode.prompt(k), *turn.completion]
            at = slice(len(ids) - len(turn.completion) - 1, len(ids) - 1)
            both = [rows(d, ids, temperature)[at] for d in (student, teacher)]
            found += [v for v, s in zip(measure(*both).tolist(), turn.sampled, strict=True) if s]
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("objective", "measure"),
    [
        (GKDLoss(beta=0.3), lambda s, t: jensen_shannon(s, t, beta=0.3)),
        (GKDLoss(beta=0.0, top=5), lambda s, t: jensen_shannon(*coarsened(s, t, 5, "teacher"), beta=0.0)),
        (SDPOLoss(alpha=1.0, top=7), lambda s, t: sdpo(*coarsened(s, t, 7, "student"), alpha=1.0)),
    ],
)
@pytest.mark.parametrize(("temperature", "max_tokens", "logits"), [(1.0, 16384, 1 << 26), (0.7, 40, 1 << 26), (0.7, 90, 300)])
def test_the_loss_is_the_divergence_of_whole_distributions(monkeypatch, objective, measure, temperature, max_tokens, logits):
    """However the step is cut into micro-batches, and these into slices of the output layer."""
    monkeypatch.setattr(scoring, "MAX_LOGITS", logits)
    student, teacher = make_decoder(), make_decoder(seed=1)
    groups = [make_group(student, i, temperature=temperature, forced=((0, 0),)) for i in range(2)]
    learner = Learner(student, LearnerConfig(loss=LossConfig(objective=objective), optimizer=STILL, max_tokens=max_tokens))
    update = learner.update(attempts_batch(groups, BatchConfig()), SamePrompt(teacher))
    assert update.loss == pytest.approx(expected(student, teacher, groups, measure, temperature), rel=1e-4)
    assert update.shares["divergence"] == pytest.approx(update.loss, rel=1e-5)


def test_slices_of_the_output_layer_change_no_gradient(monkeypatch):
    gradients = []
    for logits in (1 << 26, 300):
        monkeypatch.setattr(scoring, "MAX_LOGITS", logits)
        student = make_decoder()
        settings = LearnerConfig(
            loss=LossConfig(objective=GKDLoss()), optimizer=AdamWConfig(lr=1e-3, eps=1.0), max_grad_norm=None
        )
        learner = Learner(student, settings)
        learner.update(attempts_batch([make_group(student, 0)], BatchConfig()), SamePrompt(make_decoder(seed=1)))
        gradients.append([p.detach().clone() for p in student.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_the_tail_is_one_outcome_and_never_adds_divergence():
    student, teacher = (torch.randn(4, 9).log_softmax(-1) for _ in range(2))
    small = coarsened(student, teacher, 3, "teacher")
    assert [x.shape for x in small] == [(4, 4)] * 2 and torch.allclose(small[0].exp().sum(-1), torch.ones(4))
    assert torch.equal(small[1], top_and_tail(teacher, teacher.topk(3, -1).indices))
    assert (jensen_shannon(*small) <= jensen_shannon(student, teacher) + 1e-6).all()
    assert coarsened(student, teacher, 9, "student")[0] is student


def test_traces_join_a_batch_as_if_the_policy_had_sampled_them():
    student = make_decoder()
    traces = [Trace(ids=(1, 2, 3, 4), mask=(False, False, True, True)), Trace(ids=(5, 6, 7), mask=(False, True, False))]
    own = scored(traces_batch(traces, ["a", "b"]), student, max_tokens=3)
    for segment, trace in zip(own.segments, traces, strict=True):
        plain = [0.0, *full_logp(student, trace.ids).tolist()]
        assert segment.logprobs == pytest.approx([p if m else 0.0 for p, m in zip(plain, trace.mask, strict=True)], abs=1e-5)
    both = joined(attempts_batch([make_group(student, 0, size=2)], BatchConfig()), own)
    assert both.trained_tokens == both.total_tokens == sum(both.sequence_tokens) and both.episodes[-2:] == ("a", "b")
    assert {both.episodes[s.episode] for s in both.segments[-2:]} == {"a", "b"}
    update = Learner(student, LearnerConfig(optimizer=STILL)).update(both)
    assert update.mismatch_max < 1e-4 and update.tokens == both.total_tokens
    assert fitting([*traces, Trace(ids=(1, 2), mask=(False, False))], 3) == ([traces[1]], 2)


@pytest.mark.parametrize("settings", [BatchConfig(), BatchConfig(repair=True), BatchConfig(observations=True)], ids=str)
@pytest.mark.parametrize("faulty", [1, 3])
def test_a_teacher_of_another_prompt_finds_every_token(settings: BatchConfig, faulty: int):
    """Hinted rows in any order, prompts that share a beginning, several turns, copies of an attempt in a faulty one's place,
    the environment's answers among the tokens: each sampled token is judged behind its own hint."""
    student, teacher = make_decoder(), make_decoder(seed=1)
    group = make_group(student, 2, size=4, forced=((0, 0),))
    broken = replace(group.episodes[faulty], stop=Stop.env_fault, failure=Failure(where="env.step", kind="E", message="m"))
    group = replace(group, episodes=(*group.episodes[:faulty], broken, *group.episodes[faulty + 1 :]))
    valid = [e for e in group.episodes if e is not broken]
    learned = [*valid, *valid[: settings.repair]]
    found = [
        _Row(e.id, k, (7, 8, 9, *range(20, 40), k), t.completion, t.sampled)
        for e in reversed(valid)
        for k, t in enumerate(e.turns)
        if any(t.sampled)
    ]
    objective = GKDLoss()
    config_ = LearnerConfig(loss=LossConfig(objective=objective), optimizer=STILL, max_tokens=60)
    learner = Learner(student, config_)
    batch = attempts_batch([group], settings)
    assert sorted(batch.episodes) == sorted(e.id for e in learned)
    update = learner.update(batch, Hinted(teacher, found, learner))
    values = []
    for e in learned:
        for k, turn in enumerate(e.turns):
            prompts = ([*e.prompt(k)], [7, 8, 9, *range(20, 40), k])
            n = len(turn.completion)
            both = [rows(d, [*p, *turn.completion])[-n - 1 : -1] for d, p in zip((student, teacher), prompts, strict=True)]
            values += [v for v, s in zip(objective.divergence(*both).tolist(), turn.sampled, strict=True) if s]
    assert update.loss == pytest.approx(sum(values) / len(values), rel=1e-4)


def rewarded(group: EpisodeGroup, rewards: list[float]) -> EpisodeGroup:
    hidden = Component(name="x", score=9.0, audit=True, explanation="no")
    parts = [(Component(name="r", score=r, explanation=f"said {r:g}"), hidden) for r in rewards]
    pairs = zip(group.episodes, parts, strict=True)
    return replace(group, episodes=tuple(replace(e, reward=Reward(components=c)) for e, c in pairs))


def test_who_is_shown_what(decoder):
    group = rewarded(make_group(decoder, 0, size=3), [0.0, 1.0, 1.0])
    lesson = SelfDistilLesson(solution="S {solution}", feedback="F {feedback}")
    zero, one, two = (written(e) for e in group.episodes)
    assert zero == one == two == ""  # these episodes have no messages
    assert [h for _, h in hints(group, lesson)] == ["S \n\nF said 0", "S ", "S "]
    alone = rewarded(make_group(decoder, 0, size=2), [0.0, 1.0])
    assert [h for _, h in hints(alone, lesson)] == ["S \n\nF said 0", ""]  # its own success is no hint
    assert [h for _, h in hints(alone, SelfDistilLesson(solution=""))][1] == "" and explained(alone.episodes[0]) == "said 0"
    with pytest.raises(ConfigError, match="neither"):
        SelfDistilLesson(solution="", feedback="")
    with pytest.raises(ConfigError, match="must hold"):
        SelfDistilLesson(solution="look")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned the copy probe, whose policy teaches; and its start, which answers with either letter."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    start = presets.apply("rloo", config(steps=20, groups=12, checkpoint_every=20, **QUIET))
    job.run(replace(start, learner=replace(start.learner, optimizer=AdamWConfig(lr=5e-3))), folder)
    return folder / "checkpoints"


@pytest.mark.parametrize(("traces", "lr"), [(0.0, 5e-3), (1.0, 5e-3)])
def test_a_student_learns_its_teachers_distributions_without_rewards(tmp_path: Path, teacher: Path, traces: float, lr: float):
    run = config(model=ModelConfig(path=str(teacher / "step-00000000")), prime=None, steps=14, groups=6, **QUIET)
    run = presets.apply("gkd", run, teacher=str(teacher / "step-00000020"))
    lesson = DistilLesson(teacher=str(teacher / "step-00000020"), traces=traces)
    job.run(replace(run, lesson=lesson, learner=replace(run.learner, optimizer=AdamWConfig(lr=lr))), tmp_path / "run")
    with Run.open(tmp_path / "run") as done:
        divergence, success = ([v for _, v in done.curve(k)] for k in ("distil/divergence", "success/rate"))
        assert divergence[-1] < 0.3 * divergence[0] and sum(success[-3:]) / 3 > 0.85 > 0.65 > success[0]
        shown = [v for _, v in done.curve("distil/traces")]
        assert shown == ([24.0] * 14 if traces else [])


def test_self_distillation_learns_from_siblings_and_resumes(tmp_path: Path):
    """A policy that follows hints and otherwise says either letter: whoever said the right one is the others' hint."""
    base = config(env=EnvChoice(name="hinted_lessons:bandit"), steps=16, groups=3, group_size=8, checkpoint_every=4, **QUIET)
    assert base.prime is not None
    base = replace(base, prime=replace(base.prime, demonstrations=400, supervised=replace(base.prime.supervised, epochs=2)))
    run = presets.apply("sdpo", base)
    run = replace(
        run,
        limits=replace(run.limits, max_turns=1),
        lesson=SelfDistilLesson(solution="S: {solution}", feedback=""),
        learner=replace(run.learner, optimizer=AdamWConfig(lr=2e-3)),
    )
    job.run(run, tmp_path / "whole")
    with Run.open(tmp_path / "whole") as done:
        reward = [v for _, v in done.curve("reward/mean")]
        assert reward[0] < 0.65 and sum(reward[-3:]) / 3 > 0.85
        assert done.curve("distil/divergence") and all(math.isfinite(v) for _, v in done.curve("distil/divergence"))
    with pytest.raises(Stopped):
        job.run(run, tmp_path / "cut", listener=stop_at("train", 6))
    job.run(run, tmp_path / "cut", resume=True)
    assert essence(tmp_path / "whole", 16) == essence(tmp_path / "cut", 16)


def test_what_cannot_go_together(tmp_path: Path, decoder):
    base = config(**QUIET)
    with pytest.raises(ConfigError, match=r"set lesson\.teacher=FOLDER"):
        presets.apply("gkd", base)
    with pytest.raises(ConfigError, match="needs a teacher"):
        DistilLesson(teacher="")
    with pytest.raises(CheckpointError):
        job.check(presets.apply("gkd", base, teacher=str(tmp_path)), registry.get(base.env.name, {}))
    taught = presets.apply("sdpo", base)
    assert lint.lint(taught) == []
    plain = replace(taught, learner=replace(taught.learner, loss=LossConfig(aggregation=TokenMean())))
    assert [(f.rule, f.severity) for f in lint.lint(plain)] == [("lesson-objective", "refuse")]
    assert "nobody gives it" in lint.lint(replace(taught, lesson=None))[0].reason
    alone = replace(taught, group_size=1, lesson=SelfDistilLesson(feedback=""))
    assert [f.rule for f in lint.lint(alone)] == ["hints-alone"]
    with pytest.raises(ConfigError, match="slice by slice"):
        LearnerConfig(loss=LossConfig(objective=GKDLoss(), corrections=(GeometricReject(),)))
    with pytest.raises(ConfigError, match="was given none"):
        Learner(decoder, LearnerConfig(loss=LossConfig(objective=GKDLoss()))).update(
            attempts_batch([make_group(decoder, 0)], BatchConfig())
        )
    with pytest.raises(ConfigError, match="gkd and sdpo"):
        Learner(decoder, LearnerConfig(loss=LossConfig(objective=VESPOLoss()))).update(
            attempts_batch([make_group(decoder, 0)], BatchConfig()), SamePrompt(make_decoder(seed=1))
        )
    for wrong in ({"beta": 1.5}, {"top": 0}):
        with pytest.raises(ConfigError, match="gkd"):
            GKDLoss(**wrong)
