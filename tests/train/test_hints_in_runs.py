"""Lessons behind a hint: STaR's rationalisation and RLAG. What is played, what is learned, what is counted, what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hinted_lessons import bandit
from msgspec.structs import replace
from sampled_groups import full_logp, make_decoder
from tiny_jobs import Stopped, config, essence, stop_at

from phronesis.chat.detect import format_for
from phronesis.data.traces import Trace
from phronesis.errors import ConfigError
from phronesis.losses.distillation.rlag import rlag_loss
from phronesis.models.tokenizer import load_tokenizer
from phronesis.records import Episode, Stop, Task, say
from phronesis.rollout.hints import plain_prompt, with_hint
from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train import job, lint, presets
from phronesis.train.config import EnvChoice, EvalConfig, RunConfig
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.lessons.hints import hint_of
from phronesis.train.lessons.rationalise import RationaliseLesson
from phronesis.train.lessons.rlag import Question, RLAGLesson, _pack, question_loss
from phronesis.train.optimizer import AdamWConfig

QUIET = {"evaluation": EvalConfig(tasks=0)}


def primed(name: str, text: str, **changes) -> RunConfig:
    """The bandit with a policy that follows the hint it is shown, and otherwise says any letter."""
    env = EnvChoice(name="hinted_lessons:bandit", args={"text": text})
    base = config(**{"env": env, "steps": 6, "groups": 6, "group_size": 1, "checkpoint_every": 3, **QUIET, **changes})
    assert base.prime is not None
    prime = replace(base.prime, demonstrations=400, supervised=replace(base.prime.supervised, epochs=2))
    run = presets.apply(name, replace(base, prime=prime, limits=replace(base.limits, max_turns=1)))
    return replace(run, learner=replace(run.learner, optimizer=AdamWConfig(lr=3e-3)))


def test_failed_tasks_are_answered_again_with_the_answer_and_learned_without(tmp_path: Path):
    """One attempt at each task: three in four fail, are shown the answer, and teach it to the base model."""
    run = primed("star", "Hint: the answer is {answer}.")
    assert isinstance(run.lesson, RationaliseLesson) and lint.lint(run) == []
    job.run(run, tmp_path / "whole")
    with Run.open(tmp_path / "whole") as done:
        first = next(s.values for s in done.steps() if s.step == 0)
        again = list(done.episodes(Where(kind="hinted")))
        reward = [v for _, v in done.curve("reward/mean")]
        tasks, learned = ([v for _, v in done.curve(f"hinted/{k}")] for k in ("tasks", "learned"))
        left_out = sum(v for k in ("failed", "duplicate", "over_cap") for _, v in done.curve(f"hinted/left_out_{k}"))
    assert first["hinted/tasks"] == first["hinted/episodes"] > 0 and first["hinted/learned"] > 0
    assert len(again) == sum(tasks) == sum(learned) + left_out
    assert all(e.opening[-1].text.endswith("Hint: the answer is b.") for e in again)
    assert reward[0] < 0.7 and sum(reward[-2:]) / 2 > 0.85  # the optimum is 1, by letter b
    with pytest.raises(Stopped):
        job.run(run, tmp_path / "cut", listener=stop_at("train", 4))
    job.run(run, tmp_path / "cut", resume=True)
    assert essence(tmp_path / "whole", 6) == essence(tmp_path / "cut", 6)


def test_without_rationalisation_tasks_nobody_solves_teach_nothing(tmp_path: Path):
    """A reward nobody reaches: plain STaR has nothing to learn from, and with a threshold hints reach it does."""
    hopeless = primed("star", "Hint: the answer is {answer}.", steps=1, checkpoint_every=1)
    assert isinstance(hopeless.lesson, RationaliseLesson)
    credit = replace(hopeless.credit, success=2.0)
    for name, lesson in (("plain", None), ("hinted", replace(hopeless.lesson, success=1.0))):
        job.run(replace(hopeless, credit=credit, lesson=lesson), tmp_path / name)
        with Run.open(tmp_path / name) as done:
            (tokens,) = [v for _, v in done.curve("update/tokens")]
        assert (tokens > 0) == (lesson is not None)


@pytest.mark.parametrize(("success", "tried"), [(0.1, {"a", "b", "c"}), (0.3, {"b", "c"}), (1.0, {"b"})])
def test_a_task_has_failed_where_credit_learns_from_none_of_its_attempts(tmp_path: Path, success: float, tried: set[str]):
    """Letters a, b and c pay .2, 1 and .4: what credit calls verified is not tried again."""
    run = primed("star", "Hint: the answer is {answer}.", steps=1, checkpoint_every=1, groups=12)
    job.run(replace(run, credit=replace(run.credit, success=success)), tmp_path / "run")
    with Run.open(tmp_path / "run") as done:
        plain = list(done.episodes(Where(kind="train")))
        (tasks,) = [v for _, v in done.curve("hinted/tasks")]
    solved = [e.turns[0].action.text in tried for e in plain]
    assert tasks == solved.count(False) and 0 < tasks < len(plain)


def test_an_episode_is_told_without_its_hint(tmp_path: Path):
    job.run(primed("star", "Hint: the answer is {answer}.", steps=1, checkpoint_every=1), tmp_path / "run")
    with Run.open(tmp_path / "run") as done:
        shown, plain = (next(iter(done.episodes(Where(kind=kind)))) for kind in ("hinted", "train"))
    chat = format_for(load_tokenizer(tmp_path / "run" / "checkpoints" / "step-00000001"), "preserve")
    assert plain_prompt(shown, "Hint: the answer is b.", chat) == plain.turns[0].context
    with pytest.raises(ConfigError, match="does not end with the hint"):
        plain_prompt(shown, "Hint: the answer is c.", chat)
    twice = replace(shown, turns=(*shown.turns, *shown.turns))
    assert plain_prompt(twice, "Hint: the answer is b.", chat) is None
    silent = Episode(id="x", task=shown.task, seed=0, opening=shown.opening, stop=Stop.completed)
    assert plain_prompt(silent, "Hint: the answer is b.", chat) is None
    assert [m.text for m in with_hint([say("user", "a")], "h")] == ["a\n\nh"] and with_hint([], "h")[0].text == "\n\nh"


def test_rlag_learns_what_it_was_told(tmp_path: Path):
    """The knowledge is the best letter, which is also the answer given with it."""
    run = primed("rlag", "Known facts: {answer}", steps=14, groups=8)
    assert isinstance(run.lesson, RLAGLesson) and lint.lint(run) == []
    job.run(run, tmp_path / "run")
    with Run.open(tmp_path / "run") as done:
        reward = [v for _, v in done.curve("reward/mean")]
        knowledge, plain = ([v for _, v in done.curve(f"rlag/{k}")] for k in ("knowledge", "plain"))
        assert all(map(math.isfinite, plain)) and knowledge[-1] > knowledge[0]
    assert reward[0] < 0.65 and sum(reward[-3:]) / 3 > 0.85


@pytest.mark.parametrize("max_tokens", [16384, 12, 1])
def test_the_loss_of_rlag_is_that_of_whole_texts(max_tokens: int):
    decoder, lesson = make_decoder(), RLAGLesson(gamma=2.0)

    def trace(prompt: int, *said: int) -> Trace:
        return Trace(ids=(1, 2, prompt, *said), mask=(False, False, False, *(True for _ in said)))

    questions = [
        Question(trace(3, 10, 11), trace(3, 12), trace(3, 13, 14, 15)),
        Question(trace(4, 20), trace(4, 21, 22), trace(4, 21, 22)),
    ]
    total = 0.0
    for q in questions:
        means = [torch.tensor([full_logp(decoder, t.ids)[2:].mean().item()]) for t in q]
        weights = {"beta_d": 0.5, "beta_a": 0.0} if q.agree else {"beta_d": 0.2, "beta_a": 0.5}
        total += float(rlag_loss(*means, gamma=2.0, **weights).loss_B) / 2
    learner = Learner(decoder, LearnerConfig(optimizer=AdamWConfig(lr=1e-30)))
    result = learner.descend(_pack(questions, max_tokens, decoder.device), question_loss(questions, lesson))
    assert result.loss == pytest.approx(total, rel=1e-5) and questions[1].agree and not questions[0].agree


def test_where_hints_come_from_and_that_their_lack_is_refused(tmp_path: Path):
    spec = bandit()
    assert hint_of(spec, "", "It is {answer}.", "star")(spec.task("train", 0)) == "It is b."
    with pytest.raises(ConfigError, match=r"has no 'letter' in its payload"):
        hint_of(spec, "letter", "{answer}", "star")
    silent = bandit(answer=False)
    with pytest.raises(ConfigError, match=r"tells nothing: name the fact of the task's payload in lesson\.answer"):
        job.check(primed("star", "x"), silent)
    with pytest.raises(ConfigError, match="tells nothing"):
        job.run(
            replace(primed("rlag", "x"), env=EnvChoice(name="hinted_lessons:bandit", args={"answer": False})), tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()
    told = replace(Task(id="t", env="e"), payload={"letter": "q"})
    assert hint_of(bandit(), "", "{answer}", "rlag")(told) == "q"
    for wrong in ({"attempts": 0}, {"hint": "no"}, {"cap": 0}):
        with pytest.raises(ConfigError):
            RationaliseLesson(**wrong)
    with pytest.raises(ConfigError):
        RLAGLesson(beta_a=-1)
    star = presets.apply("star", config())
    ratio = replace(star, learner=replace(LearnerConfig(), epochs=1))
    assert [f.rule for f in lint.lint(ratio)] == ["lesson-objective"]
