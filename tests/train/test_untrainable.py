"""A turn of messages reaches neither credit nor a batch."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from phronesis.errors import TrainingError, Untrainable
from phronesis.policy import prompt_crc
from phronesis.records import Credit, Episode, EpisodeGroup, Finish, Stop, Task, Turn, Usage, say
from phronesis.train.batching import build_batch
from phronesis.train.crediting import assign

TASK = Task(id="t", env="e")


def turn(usage: Usage | None) -> Turn:
    return Turn(
        parent=None, context=(), completion=(), sampled=(), logprobs=(), finish=Finish.stop, prompt_crc=prompt_crc(()),
        action=say("assistant", "hi"), usage=usage,
    )  # fmt: skip


def group(*turns: Turn) -> EpisodeGroup:
    return EpisodeGroup(id="g", task=TASK, episodes=(Episode(id="g-0", task=TASK, seed=0, turns=turns, stop=Stop.completed),))


MIXED = group(turn(None), turn(Usage(output_tokens=3)))


def test_a_batch_refuses_it_and_names_it():
    credit = Credit(group="g", values=(((), ()),), reasons=(None,))
    with pytest.raises(Untrainable, match=r"turn 1 of episode 'g-0' .* no ids .* Train a policy of ids"):
        build_batch([MIXED], [credit])


def test_credit_refuses_it_before_any_rule_is_asked():
    class Never:
        async def assign(self, group: object, rerun: object) -> Credit:
            raise AssertionError("asked")

    with pytest.raises(Untrainable):
        asyncio.run(assign(Never(), [MIXED], None, None))  # type: ignore[arg-type]


def test_the_error_is_one_of_training_and_travels():
    error = Untrainable("why")
    assert isinstance(error, TrainingError) and str(pickle.loads(pickle.dumps(error))) == "why"
