"""Runs that learn from pairs of their own attempts: what is paired, what is counted, that it learns, that it resumes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from sampled_groups import VOCABULARY, make_group, play
from tiny_jobs import Stopped, config, essence, stop_at

from phronesis.errors import ConfigError
from phronesis.losses import IPOPreferenceLoss, StepAPOLoss
from phronesis.records import Component, EpisodeGroup, Reward
from phronesis.rollout.forks import join
from phronesis.store import Run
from phronesis.train import checkpoint, job, lint, presets
from phronesis.train.config import EvalConfig
from phronesis.train.lessons.pairs import PairsLesson, collect, step_trace
from phronesis.train.optimizer import AdamWConfig

QUIET = {"evaluation": EvalConfig(tasks=0)}


def scored(group: EpisodeGroup, rewards: list[float]) -> EpisodeGroup:
    pairs = zip(group.episodes, rewards, strict=True)
    episodes = tuple(replace(e, reward=Reward(components=(Component(name="r", score=r),))) for e, r in pairs)
    return replace(group, episodes=episodes)


def test_what_makes_a_pair_and_what_is_counted(decoder):
    groups = [
        scored(make_group(decoder, 0, size=3), [0.0, 1.0, 0.5]),
        scored(make_group(decoder, 1, size=3), [0.5, 0.5, 0.5]),
        scored(make_group(decoder, 2, size=2), [0.2, 0.3]),
        make_group(decoder, 3, size=1),
    ]
    found = collect(groups, PairsLesson(margin=0.5))
    assert [(p.chosen_value, p.rejected_value) for p in found.pairs] == [(1.0, 0.0)]
    assert found.left_out == {"tied": 1, "alone": 1, "margin": 1}
    steps = collect(groups, PairsLesson(compare="steps"))
    assert [(p.chosen_value, p.rejected_value) for p in steps.pairs] == [(1.0, 0.0), (0.3, 0.2)]
    assert steps.left_out == {"tied": 1, "alone": 1}
    (chosen,), episode = steps.pairs[0].chosen, groups[0].episodes[1]
    first = episode.turns[0]
    assert chosen == step_trace(episode, 0) and chosen.ids == first.context + first.completion
    assert sum(chosen.mask) == len(first.completion)


def test_attempts_that_part_late_are_paired_where_they_part(decoder):
    """Three attempts write the same first turn; two go on alike to 1 and 0, so that step is worth .5, against 0."""
    base = play(decoder, make_group(decoder, 0).task, "a", 0, prompt=(1, 2), turns=(2, 2, 2))
    others = []
    for name, turn in (("b", 2), ("c", 1)):
        said = base.turns[turn]
        ids = tuple((i + 1) % VOCABULARY for i in said.completion)
        turns = (*base.turns[:turn], replace(said, completion=ids), *base.turns[turn + 1 :])
        others.append(replace(base, id=name, turns=turns))
    group = scored(EpisodeGroup(id="g", task=base.task, episodes=(base, *others)), [1.0, 0.0, 0.0])
    pairs = collect([group], PairsLesson(compare="steps")).pairs
    assert sorted((p.chosen_value, p.rejected_value) for p in pairs) == [(0.5, 0.0), (1.0, 0.0)]
    assert {len(p.chosen[0].ids) for p in pairs} == {len(base.prompt(1)) + 2, len(base.prompt(2)) + 2}


def test_branches_of_one_episode_are_attempts_that_part(decoder):
    """Two families of a branch worth 1 and one worth 0, each family worth .5: one pair in each, as in a family by itself."""

    def family(name, prompt):
        base = play(decoder, make_group(decoder, 0).task, name, 0, prompt=prompt, turns=(2, 2))
        said = base.turns[1]
        other = replace(said, completion=tuple((i + 1) % VOCABULARY for i in said.completion))
        both = EpisodeGroup(id="g", task=base.task, episodes=(base, replace(base, turns=(base.turns[0], other))))
        return join(scored(both, [1.0, 0.0]).episodes)

    families = family("a", (1, 2)), family("b", (3, 4))
    for chosen in (families, families[:1]):
        group = EpisodeGroup(id="g", task=families[0].task, episodes=chosen)
        found = collect([group], PairsLesson(compare="steps"))
        assert [(p.chosen_value, p.rejected_value) for p in found.pairs] == [(1.0, 0.0)] * len(chosen)
        assert found.left_out == {} and found.pairs[0].chosen == (step_trace(chosen[0], 1),)
    same = replace(families[0], reward=Reward(components=tuple(replace(c, score=1.0) for c in families[0].reward.components)))
    tied = EpisodeGroup(id="g", task=same.task, episodes=(same,))
    assert collect([tied], PairsLesson(compare="steps")).left_out == {"tied": 1}


@pytest.mark.parametrize(
    "lesson",
    [
        PairsLesson(),
        PairsLesson(objective=IPOPreferenceLoss(), compare="first_step"),
        PairsLesson(objective=StepAPOLoss(beta=1.0), compare="steps"),
    ],
)
def test_a_run_learns_from_pairs(tmp_path: Path, lesson: PairsLesson):
    """The copy probe pays for the letter that is asked for; the primed policy says either."""
    run = presets.apply("dpo", config(steps=18, groups=16, **QUIET))
    run = replace(run, lesson=lesson, learner=replace(run.learner, optimizer=AdamWConfig(lr=3e-3)))
    job.run(run, tmp_path / "run")
    with Run.open(tmp_path / "run") as done:
        success = [v for _, v in done.curve("success/rate")]
        counted, left_out = ([v for _, v in done.curve(f"pairs/{key}")] for key in ("count", "left_out_tied"))
        assert sum(success[-3:]) / 3 > 0.85 > 0.65 > success[0]
        assert counted[0] > 0 and sum(left_out) > 0
        first = done.steps()[[s.step for s in done.steps()].index(0)].values
        assert first["pairs/margin"] > -1e-3  # two passes: the first begins at the reference
        assert max(v for _, v in done.curve("pairs/margin")) > 0.5


def test_pairs_resume_bit_for_bit_with_their_reference(tmp_path: Path):
    run = replace(presets.apply("dpo", config(**QUIET)), checkpoint_every=1)
    job.run(run, tmp_path / "whole")
    with pytest.raises(Stopped):
        job.run(run, tmp_path / "cut", listener=stop_at("train", 2))
    job.run(run, tmp_path / "cut", resume=True)
    assert essence(tmp_path / "whole", 4) == essence(tmp_path / "cut", 4)
    saved = checkpoint.load(tmp_path / "cut" / "checkpoints" / "step-00000004")
    start = checkpoint.load(tmp_path / "cut" / "checkpoints" / "step-00000000").decoder.state_dict()
    assert all(torch.equal(saved.learner["reference"][name], tensor) for name, tensor in start.items())


def test_nothing_to_pair_changes_nothing(tmp_path: Path):
    """A margin no pair can reach leaves all of them out."""
    run = presets.apply("dpo", config(steps=1, checkpoint_every=1, **QUIET))
    lesson = PairsLesson(margin=math.inf)
    job.run(replace(run, lesson=lesson), tmp_path / "run")
    with Run.open(tmp_path / "run") as done:
        values = next(s.values for s in done.steps() if s.step == 0)
    assert values["pairs/count"] == 0 == values["update/tokens"]
    folders = [tmp_path / "run" / "checkpoints" / f"step-0000000{k}" / "model.safetensors" for k in (0, 1)]
    assert folders[0].read_bytes() == folders[1].read_bytes()


def test_combinations_that_make_no_sense():
    run = presets.apply("dpo", config())
    assert lint.lint(run) == []
    alone = {f.rule: f.severity for f in lint.lint(replace(run, group_size=1))}
    assert alone == {"lone-group": "refuse", "pairs-alone": "refuse"}
    with pytest.raises(ConfigError, match=r"margin -0\.1"):
        PairsLesson(margin=-0.1)
