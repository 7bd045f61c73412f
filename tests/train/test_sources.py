"""Several sources of tasks in one run: shares that hold, limits and credit of their own, and all of it resumed bit for bit."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace as replace_data
from pathlib import Path

import lessons
import pytest
from msgspec.structs import replace
from test_async import NOTHING, OWN, consumed
from tiny_jobs import Stopped, config, essence, events, stop_at

from phronesis.credit import GiGPOCredit, ReinforcePPCredit, TrajectoryCredit
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.records import Component, Reward, Stop
from phronesis.rollout.breaker import BreakerConfig
from phronesis.rollout.limits import Limits
from phronesis.rollout.retries import RetryConfig
from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train import job, worlds
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.config import EnvChoice, RunConfig, SourceConfig
from phronesis.train.learner import LearnerConfig
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.steering import ask


class Fixed:
    """A rubric that pays by the length of the answer, whatever the task."""

    async def score(self, group):
        return [
            Reward(components=(Component(name="length", score=float(e.sampled_tokens % 3)),))
            if not e.stop.is_fault
            else Reward()
            for e in group.episodes
        ]


def paced(seconds: float):
    """The copy lesson at a given pace."""
    spec = lessons.copy()

    def make():
        env = spec.make()
        step = env.step

        async def go_on(action):
            await asyncio.sleep(seconds)
            return await step(action)

        env.step = go_on
        return env

    return replace_data(spec, make=make)


def several(**changes) -> RunConfig:
    """Two lessons at 2 : 1 with limits, credit and a rubric of their own."""
    base = config(
        env=EnvChoice(),
        sources={
            "copying": SourceConfig(env=EnvChoice(name="lessons:copy"), share=2.0),
            "remembering": SourceConfig(
                env=EnvChoice(name="lessons:memory"),
                limits=Limits(max_turns=1, max_turn_tokens=5),
                credit=GiGPOCredit(omega=1.0, gamma=1.0),
                concurrency=2,
            ),
        },
        groups=3,
        group_size=4,
    )
    return replace(base, **changes)


def counts(folder: Path) -> Counter[str]:
    """Training groups by source."""
    with Run.open(folder) as run:
        return Counter(e.task.env for e in run.episodes(Where(kind="train")) if e.id.endswith("-0"))


def test_a_run_of_two_sources_resumes_bit_for_bit(tmp_path):
    job.run(several(), tmp_path / "whole")
    assert counts(tmp_path / "whole") == {"copying": 8, "remembering": 4}
    with pytest.raises(Stopped):
        job.run(several(), tmp_path / "cut", listener=stop_at("train", 3))
    job.run(several(), tmp_path / "cut", resume=True)
    assert essence(tmp_path / "cut", 4) == essence(tmp_path / "whole", 4)


def test_at_staleness_0_it_is_the_synchronous_run_to_the_bit(tmp_path):
    job.run(several(), tmp_path / "turns")
    job.run(several(asynchrony=AsyncConfig(staleness=0)), tmp_path / "overlapped")
    turns, overlapped = (essence(tmp_path / name, 4) for name in ("turns", "overlapped"))
    assert overlapped["weights"] == turns["weights"] and overlapped["episodes"] == turns["episodes"]
    for step, values in turns["metrics"].items():
        own = {k: v for k, v in overlapped["metrics"][step].items() if not (k.startswith(OWN) or k.endswith("/playing"))}
        assert own == values


def test_every_source_has_its_limits_and_its_place_in_the_results(tmp_path):
    summary = job.run(several(), tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        stops = {(e.task.env, e.stop, len(e.turns)) for e in run.episodes(Where(kind="train"))}
        assert ("remembering", Stop.max_turns, 1) in stops  # it would go on for a second turn
        assert not any(env == "copying" and stop is Stop.max_turns for env, stop, _ in stops)
        shares = [v for _, v in run.curve("source/copying/share")]
        assert shares == pytest.approx([2 / 3] * 4)
    assert summary.heldout_after is not None
    by_source = summary.heldout_after.by_source
    assert set(by_source) == {"copying", "remembering"} and sum(n for _, n in by_source.values()) == summary.heldout_after.n


def test_credit_goes_by_source():
    rule = worlds.rule(several())
    assert rule.rules == {"remembering": GiGPOCredit(omega=1.0, gamma=1.0)} and rule.rest == TrajectoryCredit()


def test_a_rubric_of_ones_own_judges_one_source_alone(tmp_path):
    own = several(evaluation=NOTHING, steps=1)
    own = replace(own, sources=own.sources | {"copying": replace(own.sources["copying"], rubric="test_sources:Fixed")})
    job.run(own, tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        names = {(e.task.env, c.name) for e in run.episodes(Where(kind="train")) for c in e.reward.components}
    assert ("copying", "length") in names and ("remembering", "length") not in names


def test_no_more_of_a_source_play_at_once_than_its_concurrency(tmp_path, monkeypatch):
    playing, most = Counter[str](), Counter[str]()
    make = worlds.world

    def watched(chosen):
        spec = make(chosen)

        def counted(part):
            def begin():
                env = part.make()
                reset, close = env.reset, env.close

                async def enter(task, seed):
                    playing[task.env] += 1
                    most[task.env] = max(most[task.env], playing[task.env])
                    env.name = task.env
                    await asyncio.sleep(0.002)
                    return await reset(task, seed)

                async def leave():
                    playing[env.name] -= 1
                    return await close()

                env.reset, env.close = enter, leave
                return env

            return replace_data(part, make=begin)

        return replace_data(spec, parts={n: counted(p) for n, p in spec.parts.items()})

    monkeypatch.setattr(worlds, "world", watched)
    job.run(several(steps=2, evaluation=NOTHING), tmp_path / "run")
    assert most["remembering"] == 2 and most["copying"] == 8


def three(slow: float, steps: int, **changes) -> RunConfig:
    return config(
        env=EnvChoice(),
        sources={
            "quick": SourceConfig(env=EnvChoice(name="test_sources:paced", args={"seconds": 0.002}), share=5),
            "usual": SourceConfig(env=EnvChoice(name="test_sources:paced", args={"seconds": 0.002}), share=3),
            "slow": SourceConfig(env=EnvChoice(name="test_sources:paced", args={"seconds": slow}), share=2),
        },
        prime=None, steps=steps, groups=5, group_size=2, checkpoint_every=1000, evaluation=NOTHING,
        learner=LearnerConfig(optimizer=AdamWConfig(lr=1e-4)), **changes,
    )  # fmt: skip


def test_shares_hold_to_two_points_when_one_source_is_ten_times_slower(tmp_path):
    """In what is learned from, over the run and over its second half; nothing is thrown away for it."""
    job.run(three(0.02, 40, asynchrony=AsyncConfig(staleness=3, lead=None)), tmp_path / "run")
    batches = consumed(tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        env = {e.id: e.task.env for e in run.episodes(Where(kind="train"))}
    learned = [env[f"train-{n // 5}-{n % 5}-0"] for batch in batches for n in batch]
    for stretch in (learned, learned[100:]):
        for name, share in (("quick", 0.5), ("usual", 0.3), ("slow", 0.2)):
            assert abs(stretch.count(name) / len(stretch) - share) < 0.02, (name, Counter(stretch))
    assert len(learned) == 200


class Service:
    """Whether the service of a source answers, for everybody in this process."""

    failure = ""


def served() -> EnvSpec:
    """The copy lesson behind the service."""
    spec = lessons.copy()

    def make():
        env = spec.make()
        step = env.step

        async def go_on(action):
            if Service.failure == "raises":
                raise ConnectionError("the service is down")
            if Service.failure == "hangs":
                await asyncio.Event().wait()
            return await step(action)

        env.step = go_on
        return env

    return replace_data(spec, make=make)


@pytest.mark.parametrize("asynchrony", [None, AsyncConfig(staleness=2, lead=None)])
@pytest.mark.parametrize(("failure", "worked"), [("raises", False), ("raises", True), ("hangs", True)])
def test_a_source_that_dies_leaves_the_others_their_shares(tmp_path, monkeypatch, asynchrony, failure, worked):
    """From the start or in the middle, 5 : 3 stays 5 : 3 to two points over the run, which ends; the few groups that
    find the source dead are stored, count as lost, and have no reward."""
    monkeypatch.setattr(Service, "failure", "" if worked else failure)

    def listen(progress):
        if (progress.phase, progress.done) == ("train", 2):
            Service.failure = failure

    impatient = BreakerConfig(streak=3, seconds=0.2, park_seconds=0.05)
    base = three(0.0, 40, asynchrony=asynchrony, retry=RetryConfig(seconds=0.001, cap_seconds=0.002, breaker=impatient))
    dying = replace(
        base.sources["slow"], env=EnvChoice(name="test_sources:served"), limits=Limits(max_turns=2, env_seconds=0.1)
    )
    job.run(replace(base, sources=base.sources | {"slow": dying}), tmp_path / "run", listener=listen)
    with Run.open(tmp_path / "run") as run:
        env = {e.id: e.task.env for e in run.episodes(Where(kind="train"))}
        faults = [e for e in run.episodes(Where(kind="train")) if e.stop.is_fault]
        lost = sum(v for _, v in run.curve("retries/lost"))
        used = [v for name in ("quick", "usual", "slow") for _, v in run.curve(f"source/{name}/groups")]
    alive = [name for id, name in env.items() if id.endswith("-0") and name != "slow"]
    assert abs(alive.count("quick") / len(alive) - 5 / 8) < 0.02
    assert sum(used) == 200, "no group is lost on the way"
    assert {e.task.env for e in faults} == {"slow"} and len(faults) == lost > 0
    assert len(alive) > 150 and all(e.reward is None for e in faults)


def test_shares_are_changed_while_the_run_goes_on(tmp_path):
    asked = []

    def listen(progress):
        if (progress.phase, progress.done) == ("train", 4):
            ask(tmp_path / "run", {"slow": 0.0, "usual": 5.0, "quick": 5.0})
            asked.append(time.monotonic())
        if (progress.phase, progress.done) == ("train", 6):
            ask(tmp_path / "run", {"nobody": 1.0})

    job.run(three(0.002, 12), tmp_path / "run", listener=listen)
    drawn = [Counter[str]() for _ in range(12)]
    with Run.open(tmp_path / "run") as run:
        for episode in run.episodes(Where(kind="train")):
            drawn[episode.step][episode.task.env] += episode.id.endswith("-0")
    assert asked and sum(drawn[:4], Counter()) == {"quick": 10, "usual": 6, "slow": 4}
    assert sum(drawn[4:], Counter()) == {"quick": 20, "usual": 20}
    said = events(tmp_path / "run", "shares")
    assert said[0] == "shares are now quick 50.0%, usual 50.0%, slow 0.0%" and "nobody" in said[1]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"env": EnvChoice(name="guess")}, "env is for one"),
        ({"sources": {"a": SourceConfig(env=EnvChoice(name="guess"), share=0)}}, "share 0"),
        ({"sources": {"a": SourceConfig(env=EnvChoice(name="guess"), share=-1)}}, "at least 0"),
        ({"sources": {"a/b": SourceConfig(env=EnvChoice(name="guess"))}}, "'/'"),
        ({"sources": {"a": SourceConfig(env=EnvChoice(name="guess"), concurrency=0)}}, "concurrency"),
        ({"sources": {"a": SourceConfig(env=EnvChoice(name="guess"), limits=Limits(max_turns=0))}}, "max_turns"),
        (
            {"group_size": 1, "credit": ReinforcePPCredit()},
            r"sources\.remembering\.credit compares .* sources\.remembering\.credit\.",
        ),
    ],
)
def test_sources_that_cannot_work_are_refused(changes, why):
    with pytest.raises(ConfigError, match=why):
        several(**changes).validate()


def test_a_rubric_that_is_none_is_refused():
    own = several()
    own = replace(own, sources={"a": replace(own.sources["copying"], rubric="math:tau")})
    with pytest.raises(ConfigError, match="not a rubric"):
        worlds.world(own)
