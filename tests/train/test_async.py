"""Playing while the policy learns: at staleness 0 the synchronous run to the bit; beyond it nothing lost, nothing too old, and
every token of the weights its record names."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections import Counter
from dataclasses import replace as replace_data
from pathlib import Path
from types import SimpleNamespace

import lessons
import pytest
from msgspec.structs import replace
from tiny_jobs import Stopped, config, essence, events, stop_at
from typer.testing import CliRunner

from phronesis.cli.player import take
from phronesis.cli.replay import app
from phronesis.config import load
from phronesis.data.sources import SpecTasks
from phronesis.engine.embedded import EmbeddedEngine
from phronesis.env import EnvSpec
from phronesis.errors import AllFaulted, ConfigError, RunFolderError
from phronesis.reason.players.arpo import ARPOPlayer
from phronesis.records import EpisodeGroup, Task
from phronesis.rollout.pace import Pace
from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train import checkpoint, job
from phronesis.train.async_loop import Playing
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.batching import BatchConfig
from phronesis.train.buffer import Buffer
from phronesis.train.config import EnvChoice, EvalConfig, RunConfig
from phronesis.train.dynamic import DynamicConfig
from phronesis.train.learner import LearnerConfig
from phronesis.train.optimizer import AdamWConfig

NOTHING = EvalConfig(tasks=0)
OWN = ("age/", "buffer/", "time/", "speed/")


def later(steps: int = 6, **changes) -> RunConfig:
    """Up to two updates of staleness, in a world whose replies take a while and not always the same."""
    base = config(
        env=EnvChoice(name="test_async:slow"),
        steps=steps,
        groups=2,
        checkpoint_every=1,
        keep_checkpoints=99,
        evaluation=NOTHING,
        learner=LearnerConfig(optimizer=AdamWConfig(lr=1e-3)),
        asynchrony=AsyncConfig(staleness=2),
    )
    return replace(base, **changes)


def slow(seconds: float = 0.02) -> EnvSpec:
    """The copy lesson, answered after up to so many seconds."""
    spec = lessons.copy()

    def make():
        env = spec.make()
        reset, step = env.reset, env.step
        pace = random.Random()

        async def begin(task, seed):
            await asyncio.sleep(pace.random() * seconds)
            return await reset(task, seed)

        async def go_on(action):
            await asyncio.sleep(pace.random() * seconds)
            return await step(action)

        env.reset, env.step = begin, go_on
        return env

    return replace_data(spec, make=make)


def consumed(folder: Path) -> list[list[int]]:
    """The numbers of the groups of every batch; of batches made again only the last."""
    with Run.open(folder) as run:
        found = {e.step: str(e.fields["groups"]) for e in run.events() if e.kind == "batch"}
    return [[int(n) for n in found[step].split()] for step in sorted(s for s in found if s is not None)]


def check_once(folder: Path, steps: int, groups: int) -> None:
    """Every group that was started was learned from exactly once."""
    batches = consumed(folder)
    assert [len(b) for b in batches] == [groups] * steps
    assert sorted(n for b in batches for n in b) == list(range(steps * groups))


def test_at_staleness_0_it_is_the_synchronous_run_to_the_bit(tmp_path):
    job.run(config(), tmp_path / "turns")
    job.run(config(asynchrony=AsyncConfig(staleness=0)), tmp_path / "overlapped")
    turns, overlapped = (essence(tmp_path / name, 4) for name in ("turns", "overlapped"))
    assert overlapped["weights"] == turns["weights"]
    assert overlapped["episodes"] == turns["episodes"]
    for step, values in turns["metrics"].items():
        assert {k: v for k, v in overlapped["metrics"][step].items() if not k.startswith(OWN)} == values
    assert consumed(tmp_path / "overlapped") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with Run.open(tmp_path / "overlapped") as run:
        assert [v for _, v in run.curve("age/max")] == [0.0] * 4


def test_whose_turn_it_is_changes_no_bit(tmp_path, monkeypatch):
    """Work of the event loop is put off by the clock (`rollout.pace`), so that requests come in another order every time."""
    job.run(config(), tmp_path / "as it comes")
    chance, put_off = random.Random(), []

    async def turn(self):
        put_off.append(chance.randrange(6))
        for _ in range(put_off[-1]):
            await asyncio.sleep(0)

    monkeypatch.setattr(Pace, "turn", turn)
    for name, asynchrony in (("put off", None), ("put off and overlapped", AsyncConfig(staleness=0))):
        job.run(config(asynchrony=asynchrony), tmp_path / name)
        assert len(put_off) > 100
        one, other = (essence(tmp_path / n, 4) for n in ("as it comes", name))
        assert one["weights"] == other["weights"] and one["episodes"] == other["episodes"]


def test_every_token_is_of_the_weights_its_record_names(tmp_path):
    """Recomputed with the checkpoint of that version, bit for bit; turns that new weights reached are of two versions."""
    job.run(later(), tmp_path / "run")
    check_once(tmp_path / "run", 6, 2)
    kept = checkpoint.steps(tmp_path / "run" / "checkpoints")
    engines = [EmbeddedEngine(checkpoint.load(path).decoder) for path in kept]
    checked, ages = 0, set()
    with Run.open(tmp_path / "run") as run:
        for step, batch in enumerate(consumed(tmp_path / "run")):
            for number in batch:
                for episode in run.episodes(Where(group=f"train-{number // 2}-{number % 2}")):
                    for n, turn in enumerate(episode.turns):
                        assert 0 <= step - turn.version[0] <= 2 and turn.version[1] - turn.version[0] in (0, 1)
                        ages.add(step - turn.version[0])
                        if turn.version[0] == turn.version[1]:
                            prompt = episode.prompt(n)
                            said = engines[turn.version[0]].score_many([[*prompt, *turn.completion]])[0][len(prompt) - 1 :]
                            assert tuple(said) == turn.logprobs
                            checked += 1
        assert run.curve("age/max") and max(v for _, v in run.curve("age/max")) == max(ages)
        shares = [sum(s.values[k] or 0 for k in s.values if k.startswith("age/share")) for s in run.steps() if s.step >= 0]
        assert shares == pytest.approx([1.0] * 6)
    assert checked >= 24 and max(ages) >= 1


def test_episodes_replay_turn_by_turn_with_the_weights_that_sampled_them(tmp_path):
    """A turn that new weights reached in its middle keeps its recorded completion, and the verdict says so."""
    job.run(later(), tmp_path / "run")
    seen = Counter[str]()
    assert take(tmp_path / "run", later()).seat.sampling is None  # nobody learns, so one copy of the weights is enough
    with Run.open(tmp_path / "run") as run:
        episodes = [e for e in run.episodes(Where(kind="train")) if e.turns]
    for episode in episodes[::5]:
        found = CliRunner().invoke(app, [str(tmp_path / "run"), episode.id])
        crossed = sum(t.version[0] != t.version[1] for t in episode.turns)
        assert found.exit_code == 0 and "the same bit for bit" in found.stdout, found.output
        assert ("the policy got new weights in the middle of" in found.stdout) == bool(crossed)
        assert ("ampled again with" in found.stdout) == (crossed < len(episode.turns))
        seen["whole"] += not crossed
    assert seen["whole"]


@pytest.mark.parametrize("done", [1, 3, 5])
def test_a_stopped_run_goes_on_and_learns_from_every_group_once(tmp_path, done):
    with pytest.raises(Stopped):
        job.run(later(checkpoint_every=2), tmp_path / "run", listener=stop_at("train", done))
    summary = job.run(later(checkpoint_every=2), tmp_path / "run", resume=True)
    check_once(tmp_path / "run", 6, 2)
    assert summary.episodes == 6 * 2 * 4 and summary.faults == 0


def test_ctrl_c_does_not_wait_for_the_whole_update(tmp_path, monkeypatch, request):
    """The signal comes in the third batch, in its first of many micro-batches: this one is the last that is computed."""
    from phronesis.train import learner

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored where it runs things aside
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    one_by_one = LearnerConfig(optimizer=AdamWConfig(lr=1e-3), max_tokens=1)
    run = later(prime=None, batch=BatchConfig(drop_silent=False), learner=one_by_one, checkpoint_every=2)
    descend, score, steps, computed = learner.Learner.descend, learner.score, 0, 0

    def count(self, *arguments, **named):
        nonlocal steps
        steps += 1
        return descend(self, *arguments, **named)

    def interrupted(*arguments, **named):
        nonlocal computed
        if steps == 3:
            computed += 1
            if computed == 1:
                os.kill(os.getpid(), signal.SIGINT)
            noticed.wait(60.0)
        return score(*arguments, **named)

    noticed, abandon = threading.Event(), learner.Learner.abandon

    def notice(self):
        abandon(self)
        noticed.set()

    for name, part in (("Learner.descend", count), ("score", interrupted), ("Learner.abandon", notice)):
        monkeypatch.setattr(f"phronesis.train.learner.{name}", part)
    with pytest.raises(KeyboardInterrupt):
        job.run(run, tmp_path / "run")
    assert (steps, computed) == (3, 1)
    monkeypatch.undo()
    job.run(run, tmp_path / "run", resume=True)
    check_once(tmp_path / "run", 6, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dynamic": DynamicConfig()}, "dynamic"),
        ({"player": ARPOPlayer(initial=2)}, "player"),
    ],
)
def test_what_goes_by_the_step_is_refused(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=f"which {said} does not do yet"):
        job.run(later(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("asynchrony", [AsyncConfig(staleness=2), None])
def test_tasks_that_run_out_stop_the_run_and_say_so(tmp_path, asynchrony, monkeypatch):
    """Seven tasks for batches of two: the fourth batch is smaller, and there is no fifth."""
    draw = SpecTasks.draw
    monkeypatch.setattr(SpecTasks, "draw", lambda self, n: draw(self, max(0, min(n, 7 - self.cursor))))
    with pytest.raises(ConfigError, match=r"no task is left for step 4 of 6; set steps=4"):
        job.run(later(prime=None, asynchrony=asynchrony), tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        assert len(run.rows(Where(kind="train"))) == 7 * 4 and [s.step for s in run.steps()] == [0, 1, 2, 3]
    assert asynchrony is None or [len(b) for b in consumed(tmp_path / "run")] == [2, 2, 2, 1]


@pytest.mark.parametrize("settings", [{"staleness": -1}, {"lead": 0}, {"max_age": -1}])
def test_numbers_out_of_range(settings):
    with pytest.raises(ConfigError, match="asynchrony"):
        AsyncConfig(**settings)


def test_settings_from_a_file(tmp_path):
    (tmp_path / "run.toml").write_text('name = "mine"\n[asynchrony]\nstaleness = 3\n')
    assert load(RunConfig, [tmp_path / "run.toml"]).asynchrony == AsyncConfig(staleness=3)


def test_a_batch_of_faults_stops_the_run(tmp_path):
    broken = EnvChoice(name="own_worlds:broken", args={"method": "step", "every": 1})
    with pytest.raises(AllFaulted, match="batch 0"):
        job.run(later(env=broken, prime=None), tmp_path / "run")


def test_a_full_disk_while_playing_stops_the_run_with_its_checkpoint(tmp_path, monkeypatch):
    from phronesis.store.run import RunWriter

    append, count = RunWriter.append, 0

    def fail(self, episode, kind="train"):
        nonlocal count
        count += 1
        if count == 30:
            raise RunFolderError("the disk is full")
        append(self, episode, kind)

    monkeypatch.setattr(RunWriter, "append", fail)
    with pytest.raises(RunFolderError, match="the disk is full"):
        job.run(later(), tmp_path / "run")
    monkeypatch.undo()
    job.run(later(), tmp_path / "run", resume=True)
    check_once(tmp_path / "run", 6, 2)


def test_a_batch_that_does_not_come_is_explained(tmp_path, monkeypatch):
    """The first group hangs for a second; meanwhile the run says what it waits for."""
    from phronesis.log import Heartbeat

    def hasty(self, step, what):
        return Heartbeat(
            what, every=0.2, listener=lambda why, waited: self.run.event("heartbeat", why, step=step, waited=waited)
        )

    monkeypatch.setattr("phronesis.train.loop.Loop.heartbeat", hasty)
    job.run(later(steps=2, env=EnvChoice(name="test_async:slow", args={"seconds": 1.0})), tmp_path / "run")
    said = events(tmp_path / "run", "heartbeat")
    assert any("groups are finished" in s and " in env." in s for s in said)


def test_what_a_batch_waits_for_in_words():
    """Two groups a batch, one version of staleness: group 0 has been overtaken and is due."""
    task, group = Task(id="t", env="none"), EpisodeGroup(id="g", task=Task(id="t", env="none"), episodes=())
    buffer = Buffer(2, 1, lead=None)
    for _ in range(4):
        buffer.start(task)
    playing = Playing.__new__(Playing)
    playing._buffer, playing._loop = buffer, SimpleNamespace(stage=SimpleNamespace(waits=lambda: "8 in env.step"))
    assert playing.why() == "version 0: 0 of 2 groups are finished, 4 play; 8 in env.step"
    for number in (1, 2):
        buffer.finish(number, group)
    assert buffer.take() is not None
    buffer.learned()
    buffer.finish(3, group)
    due = "it waits for some that started early, the first of 1 is group 0"
    assert playing.why() == f"version 1: 1 of 2 groups are finished, 1 play; {due}; 8 in env.step"
