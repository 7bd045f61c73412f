"""What the loop says and refuses: silence is an alarm, an all-faulty step stops training, faults reach no baseline."""

from __future__ import annotations

import logging
from statistics import fmean

import own_worlds
import pytest
from msgspec.structs import replace
from tiny_jobs import Stopped, config, events, stop_at, weights

from phronesis.credit import GroupMean, TrajectoryCredit
from phronesis.envs.native import from_env
from phronesis.errors import AllFaulted, EnvFault
from phronesis.records import Reply, Stop
from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train import job
from phronesis.train.batching import BatchConfig
from phronesis.train.config import EnvChoice, EvalConfig
from phronesis.train.learner import Learner
from phronesis.train.metrics import undefined

NOTHING = EvalConfig(tasks=0)


def world(name: str, **arguments) -> EnvChoice:
    return EnvChoice(name=f"own_worlds:{name}", args=arguments)


def test_silence_is_an_alarm_and_changes_no_weight(tmp_path, caplog):
    flat = config(env=world("flat"), evaluation=NOTHING, steps=5, silent_steps=2, checkpoint_every=1)
    with caplog.at_level(logging.WARNING, "phronesis.train.silence"):
        summary = job.run(flat, tmp_path / "run")
    said = events(tmp_path / "run", "alarm")
    assert [text.split(":")[0] for text in said] == ["no signal for 2 steps", "no signal for 4 steps"]
    assert "every reward was 0.5; episodes ended by completed 8" in said[0]
    assert [r.message for r in caplog.records if r.name == "phronesis.train.silence"] == said
    assert weights(tmp_path / "run", 0) == weights(tmp_path / "run", 5)
    assert (summary.mismatch_kl, summary.max_logprob_difference, summary.learn_tokens_per_second) == (None, None, None)
    with Run.open(tmp_path / "run") as run:
        assert [v for _, v in run.curve("signal/zero_variance")] == [1.0] * 5
        assert [v for _, v in run.curve("update/tokens")] == [0.0] * 5
        assert run.curve("update/loss") == [] and undefined(k for s in run.steps() for k in s.values) == ()


def test_a_resumed_run_remembers_its_silence(tmp_path):
    flat = config(env=world("flat"), evaluation=NOTHING, steps=5, silent_steps=4, checkpoint_every=2)
    with pytest.raises(Stopped):
        job.run(flat, tmp_path / "run", listener=stop_at("train", 3))
    job.run(flat, tmp_path / "run", resume=True)
    assert [text.split(":")[0] for text in events(tmp_path / "run", "alarm")] == ["no signal for 4 steps"]


def test_signal_ends_the_silence(tmp_path):
    job.run(config(evaluation=NOTHING, silent_steps=1, steps=2), tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        quiet = sum(v == 0.0 for _, v in run.curve("update/tokens"))
    assert len(events(tmp_path / "run", "alarm")) == quiet < 2


def test_a_step_of_faults_stops_and_names_the_cause(tmp_path):
    broken = config(env=world("broken"), evaluation=NOTHING)
    cause = r"all 8 episodes of step 0 faulted; the first \('train-0-0-0'\): ConnectionError in env\.step: the world is gone"
    with pytest.raises(AllFaulted, match=cause):
        job.run(broken, tmp_path / "run")
    (failure,) = events(tmp_path / "run", "failure")
    assert failure.startswith("AllFaulted: all 8 episodes") and "the world is gone" in failure
    with Run.open(tmp_path / "run") as run:
        assert {r.stop for r in run.rows(Where(kind="train"))} == {"env_fault"} and len(run.rows()) == 8


def test_faults_of_every_phase_are_one_error(tmp_path):
    """The same world breaks in the evaluation before training."""
    cause = r"all 3 episodes of an evaluation of 'probe-bandit' faulted; the first \('heldout_before-0-0'\): ConnectionError in"
    with pytest.raises(AllFaulted, match=cause):
        job.run(config(env=world("broken"), evaluation=EvalConfig(tasks=3)), tmp_path / "run")


class Over:
    """Is over before anything is said."""

    def reset(self, task, seed):
        return Reply(messages=task.messages, done=True)

    def step(self, action):
        return Reply(done=True)

    def close(self):
        pass


def test_a_run_without_a_turn_says_so(tmp_path):
    rows = [{"prompt": f"Say {letter}."} for letter in "abc"]
    spec = from_env(Over, {"train": rows, "heldout": rows})
    summary = job.run(config(prime=None, steps=1), tmp_path / "run", spec=spec)
    assert summary.line == "tiny: no turn was played, every one of 3 held-out episodes was over with its opening"
    assert "nan" not in (tmp_path / "run" / "summary.json").read_text().lower()


@pytest.mark.parametrize("prime", [True, False])
def test_a_world_that_is_gone_before_training_begins_is_named(tmp_path, prime, monkeypatch):
    spec = own_worlds.broken("reset")

    async def show(index, seed):
        raise ConnectionError("the world is gone")

    monkeypatch.setattr(own_worlds, "READY", own_worlds.replace(spec, demonstrate=show), raising=False)
    gone = config(env=EnvChoice(name="own_worlds:READY"))
    with pytest.raises(
        EnvFault, match=r"'probe-bandit' failed at (opening|demonstration) 0: ConnectionError: the world is gone"
    ):
        job.run(gone if prime else replace(gone, prime=None), tmp_path / "run")


def test_faults_reach_no_baseline_and_no_batch(tmp_path, monkeypatch):
    """Some episodes break. The others' advantages are their reward minus the mean of those that did not."""
    seen = []
    monkeypatch.setattr(Learner, "update", lambda self, batch, update=Learner.update: seen.append(batch) or update(self, batch))
    some = config(
        env=world("broken", every=3), evaluation=NOTHING, steps=3, group_size=6, groups=2,
        credit=TrajectoryCredit(baseline=GroupMean()), batch=BatchConfig(drop_silent=False),
    )  # fmt: skip
    some = replace(some, learner=replace(some.learner, epochs=1, minibatches=1))
    summary = job.run(some, tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        episodes = {e.id: e for e in run.episodes(Where(kind="train"))}
        shares = [v for _, v in run.curve("episode/faults")]
    faulty = {i for i, e in episodes.items() if e.stop is Stop.env_fault}
    assert 0 < len(faulty) < len(episodes) == 36 and summary.faults == len(faulty)
    assert fmean(shares) == pytest.approx(len(faulty) / 36)
    assert all(episodes[i].reward is None for i in faulty)
    means = {}
    for group in {e.group for e in episodes.values()}:
        rewards = [e.reward.value for i, e in episodes.items() if e.group == group and i not in faulty]
        means[group] = fmean(rewards) if rewards else None
    checked = 0
    for batch in seen:
        assert faulty.isdisjoint(batch.episodes)
        for segment in batch.segments:
            for trained, advantage in zip(segment.mask, segment.advantages, strict=True):
                if trained:
                    episode = episodes[batch.episodes[segment.episode]]
                    assert advantage == pytest.approx(episode.reward.value - means[episode.group], abs=1e-12)
                    checked += 1
    assert checked > 20
