"""On-policy distillation: the teacher's scores, the credit made of them, and that the student approaches the teacher."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from sampled_groups import VOCABULARY, full_logp, make_decoder, make_group, play

from phronesis.credit import GroupMean, TrajectoryCredit
from phronesis.credit.judged.teacher import NeedsTeacher, OPDCredit, opd_advantages
from phronesis.credit.rule import CreditRule
from phronesis.errors import CheckpointError, ConfigError
from phronesis.models import checkpoint
from phronesis.models.decoder import Decoder
from phronesis.models.layout import plan
from phronesis.models.tiny import TinyModel, tiny
from phronesis.policy import prompt_crc
from phronesis.records import Component, Episode, EpisodeGroup, Finish, Reward, Stop, Task, Turn
from phronesis.seeding import rng
from phronesis.train.batching import build_batch
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.teacher import Teacher, check_teacher, taught

TASK = Task(id="t", env="toy")


def test_worked_numbers():
    assert opd_advantages([-0.5, -2.0, -1.0], [-1.0, -0.5, -1.0]) == (-0.5, 1.5, 0.0)
    assert opd_advantages([-0.5], [-1.0], coef=2.0) == (-1.0,) and opd_advantages([], []) == ()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("max_tokens", [16384, 40])
def test_scores_are_those_of_whole_sequences(temperature, max_tokens):
    student, teacher = make_decoder(), make_decoder(seed=1)
    group = make_group(student, 0, size=4, temperature=temperature, forced=((0, 0),))
    found = Teacher(teacher, max_tokens=max_tokens)(group)
    assert set(found) == set(range(4))
    for i, episode in enumerate(group.episodes):
        for k, turn in enumerate(episode.turns):
            ids = [*episode.prompt(k), *turn.completion]
            plain = full_logp(teacher, ids, temperature)[len(ids) - len(turn.completion) - 1 :].tolist()
            expected = [p if s else 0.0 for p, s in zip(plain, turn.sampled, strict=True)]
            assert list(found[i][k]) == pytest.approx(expected, abs=1e-5)


def test_credit_is_the_difference_at_sampled_tokens_alone():
    student, teacher = make_decoder(), make_decoder(seed=1)
    whole = make_group(student, 1, size=2, forced=((0, 0),))
    broken = Episode(id="x", task=whole.task, seed=0, stop=Stop.env_fault)
    group = EpisodeGroup(id="g", task=whole.task, episodes=(broken, *whole.episodes))
    scores = Teacher(teacher)(group)
    credit = asyncio.run(OPDCredit(teacher="t", coef=0.5).with_teacher(Teacher(teacher)).assign(group))
    assert credit.values[0] is None and credit.reasons == ("env_fault", None, None) and not credit.zero_variance
    for i in (1, 2):
        values = credit.values[i]
        assert values is not None
        for turn, row, told in zip(group.episodes[i].turns, values, scores[i], strict=True):
            expected = [0.5 * (t - p) if s else 0.0 for t, p, s in zip(told, turn.logprobs, turn.sampled, strict=True)]
            assert list(row) == pytest.approx(expected, abs=1e-6)
    # a teacher that is the student has nothing to say
    own = asyncio.run(OPDCredit(teacher="t").with_teacher(Teacher(student)).assign(group))
    assert max(abs(a) for rows in own.values if rows for row in rows for a in row) < 1e-5


def test_a_lone_episode_has_credit_and_so_has_an_unrewarding_group():
    student = make_decoder()
    lone = play(student, TASK, "e", 0, prompt=(1, 2, 3))
    credit = asyncio.run(
        OPDCredit(teacher="t")
        .with_teacher(Teacher(make_decoder(seed=1)))
        .assign(EpisodeGroup(id="g", task=TASK, episodes=(lone,)))
    )
    assert credit.values[0] is not None and any(a for row in credit.values[0] for a in row)


def sampled(decoder: Decoder, name: str, length: int = 4) -> Episode:
    """An answer really drawn from the decoder, to one of four prompts."""
    source = rng(5, name)
    prompt = [1, 2 + source.randrange(4)]
    ids, logprobs = list(prompt), []
    for _ in range(length):
        with torch.no_grad():
            logp = decoder.logits(decoder.hidden(torch.tensor(ids), plan([len(ids)], [None])))[-1].log_softmax(-1)
        token = source.choices(range(VOCABULARY), logp.exp().tolist())[0]
        ids.append(token)
        logprobs.append(float(logp[token]))
    turn = Turn(
        parent=None,
        context=tuple(prompt),
        completion=tuple(ids[2:]),
        sampled=(True,) * length,
        logprobs=tuple(logprobs),
        finish=Finish.stop,
        prompt_crc=prompt_crc(prompt),
    )
    reward = Reward(components=(Component(name="r", score=0.0),))
    return Episode(id=name, task=TASK, seed=0, turns=(turn,), stop=Stop.completed, reward=reward)


def divergence(student: Decoder, teacher: Decoder) -> float:
    """Exact KL(student || teacher) of the first token, mean over the prompts."""
    total = 0.0
    for last in range(2, 6):
        ids = torch.tensor([1, last])
        with torch.no_grad():
            p, q = (d.logits(d.hidden(ids, plan([2], [None])))[-1].log_softmax(-1) for d in (student, teacher))
        total += float((p.exp() * (p - q)).sum()) / 4
    return total


def test_the_student_approaches_the_teacher():
    student, teacher = make_decoder(layers=1), make_decoder(seed=1, layers=1)
    rule = OPDCredit(teacher="t").with_teacher(Teacher(teacher))
    learner = Learner(student, LearnerConfig(optimizer=AdamWConfig(lr=1e-2)))
    before = divergence(student, teacher)
    for step in range(25):
        episodes = tuple(sampled(student, f"{step}-{i}") for i in range(24))
        group = EpisodeGroup(id=f"g{step}", task=TASK, episodes=episodes)
        learner.update(build_batch([group], [asyncio.run(rule.assign(group))]))
    assert before > 0.5 and divergence(student, teacher) < 0.5 * before


def test_what_cannot_be_taught_is_refused(tmp_path: Path):
    student = make_decoder()
    plain = TrajectoryCredit(baseline=GroupMean())
    assert taught(plain, student) is plain and isinstance(OPDCredit(teacher="t"), NeedsTeacher | CreditRule)
    with pytest.raises(ConfigError, match="teacher is empty"):
        OPDCredit(teacher="")
    check_teacher(plain)
    with pytest.raises(CheckpointError):
        check_teacher(OPDCredit(teacher=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match="no teacher"):
        asyncio.run(OPDCredit(teacher="t").assign(EpisodeGroup(id="g", task=TASK, episodes=())))
    with pytest.raises(ConfigError, match="coef 0"):
        OPDCredit(teacher="t", coef=0)
    checkpoint.save(tiny(TinyModel(width=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_width=48), 7, 0), tmp_path / "a")
    with pytest.raises(ConfigError, match="the teacher knows 7 ids, the student 61"):
        taught(OPDCredit(teacher=str(tmp_path / "a")), student)


def test_a_teacher_from_a_checkpoint(tmp_path: Path):
    student, teacher = make_decoder(), make_decoder(seed=1)
    checkpoint.save(teacher, tmp_path)
    check_teacher(OPDCredit(teacher=str(tmp_path)))
    group = make_group(student, 2, size=2)
    rules = taught(OPDCredit(teacher=str(tmp_path)), student), OPDCredit(teacher="t").with_teacher(Teacher(teacher))
    first, second = (asyncio.run(rule.assign(group)).values for rule in rules)
    assert first == second
