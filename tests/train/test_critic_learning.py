"""Learning over a critic on a probe with a known optimum: an episode is judged by what was expected, not by its siblings."""

from __future__ import annotations

from statistics import fmean

import pytest
from test_learning import SHORT, lesson, rewards

from phronesis.credit import GAECredit, SAOCredit
from phronesis.train.critic import CriticConfig
from phronesis.train.optimizer import AdamWConfig

CRITIC = CriticConfig(optimizer=AdamWConfig(lr=1e-3), warmup=4, epochs=2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gae(tmp_path, seed):
    """Any answer that does not look at the prompt earns 0.5."""
    config = lesson("copy", seed, steps=32, lr=2e-3, shown=SHORT, credit=GAECredit(whiten=True), critic=CRITIC)
    curve = rewards(config, tmp_path / "run")
    assert curve[0] < 0.75 and fmean(curve[-4:]) > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sao_with_one_rollout_a_prompt(tmp_path, seed):
    """No episode has a sibling."""
    one = {"groups": 32, "group_size": 1, "credit": SAOCredit(), "critic": CRITIC}
    curve = rewards(lesson("copy", seed, steps=32, lr=3e-3, shown=SHORT, **one), tmp_path / "run")
    assert curve[0] < 0.75 and fmean(curve[-4:]) > 0.9


def test_while_the_critic_warms_up_nothing_is_learned(tmp_path):
    config = lesson("copy", 0, steps=24, lr=3e-3, shown=SHORT, credit=GAECredit(), critic=CriticConfig(warmup=23))
    assert 0.3 < fmean(rewards(config, tmp_path / "run")[-8:]) < 0.7
