"""What the crowd benchmark calls ideal, and late."""

from __future__ import annotations

import asyncio

import pytest
from bench.__main__ import CASES, SMALL, main
from bench.crowd.phronesis_side import Crowd, tokenizer
from bench.crowd.plan import TICK, TURNS, Clock, Ticker, ideal_seconds, waits

from phronesis.chat.detect import format_for
from phronesis.rollout.limits import Limits
from phronesis.store import Run
from phronesis.train.config import EnvChoice, RunConfig


def test_the_ideal_is_when_the_last_wait_is_over():
    assert ideal_seconds([2.0, 1.0, 1.0, 3.0], 4) == 3.0
    assert ideal_seconds([2.0, 1.0, 1.0, 3.0], 2) == 5.0, "the fourth begins when the first has ended"
    assert ideal_seconds([2.0, 1.0, 1.0, 3.0], 1) == 7.0


def test_a_pause_counts_for_as_long_as_it_lasts():
    ticker = Ticker()
    ticker.late = [0.0] * 1000 + [1.0 - TICK]  # five seconds of looks in time, and one second of standing still
    assert ticker.lag(1.0) == ticker.lag(0.99) == ticker.lag(0.9) == pytest.approx(1000 - 1000 * TICK)
    assert ticker.lag(0.8) == 0.0


def test_every_side_waits_for_the_same():
    assert waits(3) == waits(3) != waits(4) and len(waits(3)) == TURNS


def test_simulated_episodes_are_played_and_stored_whole(tmp_path):
    crowd = Crowd(format_for(tokenizer()), 16, 20)
    for own in crowd.model.waits.values():
        own[:] = [w / 1000 for w in own]
    crowd.spec.make().waits.update({k: [w / 1000 for w in v] for k, v in crowd.spec.make().waits.items()})
    assert crowd.stage.limits == Limits(max_turns=TURNS, max_turn_tokens=256)
    with Run.create(tmp_path / "run", RunConfig(name="crowd", env=EnvChoice(name="countdown"))) as run:
        taken = asyncio.run(crowd.play(run, 8, Clock(), Ticker()))
    episodes = list(Run.open(tmp_path / "run").episodes())
    assert len(taken) == len(episodes) == 16
    assert all(e.prompt(TURNS - 1)[: len(e.prompt(0))] == e.prompt(0) and e.reward.value == 1.0 for e in episodes)


def test_only_cases_that_know_how_run_small(capsys, monkeypatch):
    monkeypatch.delenv("BENCH_QUICK", raising=False)
    assert set(SMALL) <= set(CASES)
    with pytest.raises(SystemExit) as ended:
        main(["--quick", "crowd", "learner"])
    assert ended.value.code == 2 and "'learner' knows no --quick" in capsys.readouterr().err
