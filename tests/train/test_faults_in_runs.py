"""Whole runs in worlds that fail.

Pinned: with three attempts in ten failing somewhere (making, reset, step, close, the rubric, the policy), a run ends with the
weights, episodes and metrics of the run without faults to the bit: in turns, overlapped at staleness 0, and resumed. What still
faults reaches no baseline, no mean, no pass rate, no held-out number, and is never a reward of 0. An outage parks the run, says
so, and costs it nothing; one that lasts ends it with a typed error, after which it can be resumed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import replace as replace_data
from types import SimpleNamespace
from typing import ClassVar

import lessons
import pytest
from msgspec.structs import replace
from tiny_jobs import Stopped, config, essence, events, stop_at

from phronesis.credit import GiGPOCredit, TrajectoryCredit
from phronesis.credit.baselines.batchwide import LitePPOCredit
from phronesis.credit.baselines.trajectory import has_zero_variance
from phronesis.credit.rule import Settles
from phronesis.data.pass_rates import PassRateTasks
from phronesis.data.sources import SpecTasks
from phronesis.engine.embedded import EmbeddedEngine
from phronesis.env import EnvSpec
from phronesis.errors import AllFaulted, ConfigError, Overdue, PolicyFault, RunFolderError, SourceDown
from phronesis.evals.at_k import pass_at_k
from phronesis.evals.run import summarise
from phronesis.records import EpisodeGroup, Stop
from phronesis.rollout.breaker import BreakerConfig, Breakers
from phronesis.rollout.play import Stage
from phronesis.rollout.retries import RetryConfig
from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train import job
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.batching import BatchConfig, build_batch
from phronesis.train.config import EnvChoice, EvalConfig, RunConfig, SourceConfig
from phronesis.train.deadlines import Deadlines
from phronesis.train.dynamic import DynamicConfig
from phronesis.train.measures import episode_metrics

OWN = ("age/", "buffer/", "time/", "speed/", "retries/", "breaker/")
PATIENT = RetryConfig(
    attempts=12, reserve=1000, seconds=0.001, cap_seconds=0.01, breaker=BreakerConfig(seconds=0.01, cap_seconds=0.02)
)


class Weather:
    """How the world of this file is just now; every test sets it anew."""

    share = 0.0
    """Attempts that fail."""
    chance = random.Random(0)
    failed: ClassVar[Counter[str]] = Counter()
    doomed: frozenset[str] = frozenset()
    """Tasks whose episodes with an odd seed always fault."""
    until = 0.0
    """Down until this moment."""
    tried = 0

    @classmethod
    def strikes(cls, where: str, share: float) -> bool:
        struck = cls.chance.random() < share * cls.share
        cls.failed[where] += struck
        return struck


@pytest.fixture(autouse=True)
def calm():
    Weather.share, Weather.failed, Weather.doomed, Weather.until, Weather.tried = 0.0, Counter(), frozenset(), 0.0, 0
    Weather.chance = random.Random(11)


def shaky() -> EnvSpec:
    """The copy lesson in this weather. Its episodes end well before its rubric is asked."""
    spec = lessons.copy()

    class Rubric:
        async def score(self, group):
            if Weather.strikes("rubric", 0.3):
                raise TimeoutError("the judge is busy")
            return await spec.rubric.score(group)

    def make():
        if Weather.strikes("make", 0.08):
            raise OSError("no container")
        env = spec.make()
        reset, step, close = env.reset, env.step, env.close

        async def begin(task, seed):
            Weather.tried += 1
            if Weather.strikes("reset", 0.08) or time.monotonic() < Weather.until:
                raise ConnectionRefusedError("nobody listens")
            if task.id in Weather.doomed and seed % 2:
                raise RuntimeError("this one always breaks")
            return await reset(task, seed)

        async def go_on(action):
            if Weather.strikes("step", 0.08):
                raise BrokenPipeError("gone")
            return await step(action)

        async def end():
            await close()
            if Weather.strikes("close", 0.06):
                raise OSError("still mounted")

        env.reset, env.step, env.close = begin, go_on, end
        return env

    return replace_data(spec, make=make, rubric=Rubric())


def run_of(**changes) -> RunConfig:
    return config(**{"env": EnvChoice(name="test_faults_in_runs:shaky"), "retry": PATIENT, **changes})


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """What the run without faults comes to."""
    folder = tmp_path_factory.mktemp("clean") / "run"
    Weather.share = 0.0
    job.run(run_of(), folder)
    return compared(folder)


def compared(folder) -> dict[str, object]:
    found = essence(folder, 4)
    found["metrics"] = {
        step: {k: v for k, v in values.items() if not k.startswith(OWN)} for step, values in found["metrics"].items()
    }
    found["results"] = {k: v for k, v in found["results"].items() if k != "config_hash"}
    return found


def stormy(monkeypatch, share: float = 1.0) -> None:
    """Everything fails now and then, the policy included: an attempt in some three out of ten cases."""
    Weather.share = share
    sample = EmbeddedEngine.sample

    async def sometimes(self, prompt, params):
        if Weather.strikes("policy", 0.06):
            raise PolicyFault("no answer")
        return await sample(self, prompt, params)

    monkeypatch.setattr(EmbeddedEngine, "sample", sometimes)


@pytest.mark.parametrize("asynchrony", [None, AsyncConfig(staleness=0)])
def test_faults_change_no_bit_of_what_is_learned(clean, tmp_path, monkeypatch, asynchrony):
    stormy(monkeypatch)
    job.run(run_of(asynchrony=asynchrony), tmp_path / "run")
    assert sum(Weather.failed.values()) > 20 and set(Weather.failed) == {"make", "reset", "step", "close", "rubric", "policy"}
    assert compared(tmp_path / "run") == clean
    with Run.open(tmp_path / "run") as run:
        told = [e for e in run.events() if e.kind == "retry"]
        kept = {(r.kind, r.id): run.read(r) for r in run.rows()}
        counted = sum(s.values.get("retries/faults", 0) or 0 for s in run.steps())
        saved = sum(s.values.get("retries/saved", 0) or 0 for s in run.steps())
    assert not any(e.stop.is_fault for e in kept.values())
    struck = sum(Weather.failed.values())  # of two blows to one attempt the first is told; one play before the run is a look
    assert struck - Weather.failed["close"] - 1 <= len(told) <= struck, "every failed attempt is an event"
    assert {e.fields["failure"] for e in told} >= {"OSError", "ConnectionRefusedError", "BrokenPipeError", "PolicyFault"}
    assert 0 < saved <= counted <= len(told), "all but those after the last step are in its metrics"


def test_a_run_with_faults_resumes_to_the_same_bits(clean, tmp_path, monkeypatch):
    stormy(monkeypatch)
    with pytest.raises(Stopped):
        job.run(run_of(), tmp_path / "run", listener=stop_at("train", 3))
    job.run(run_of(), tmp_path / "run", resume=True)
    assert compared(tmp_path / "run") == clean and Weather.failed


HARSH = RetryConfig(attempts=2, seconds=0.0, breaker=BreakerConfig(least=32, share=1.0, streak=999))


def doomed_run(tmp_path, **changes):
    """A run in which half of the episodes of one of two tasks always fault: its episodes by kind, and its metrics by step."""
    Weather.doomed = frozenset({"train-a", "heldout-a"})
    given = {"retry": HARSH, "evaluation": EvalConfig(tasks=16, greedy=False, swapped=False), "group_size": 4, **changes}
    job.run(run_of(**given), tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        episodes = {kind: list(run.episodes(Where(kind=kind))) for kind in ("train", "heldout_before")}
        steps = {s.step: s.values for s in run.steps() if s.step >= 0 and "reward/mean" in s.values}
    return episodes, steps


def events_of(folder, kind):
    with Run.open(folder) as run:
        return [e for e in run.events() if e.kind == kind]


def test_what_still_faults_counts_nowhere(tmp_path):
    episodes, steps = doomed_run(tmp_path)
    faults = [e for e in episodes["train"] if e.stop.is_fault]
    assert faults and all(e.reward is None and e.stop is Stop.env_fault and e.task.id == "train-a" for e in faults)
    for step, values in steps.items():
        mine = [e for e in episodes["train"] if e.step == step]
        sound = [e for e in mine if not e.stop.is_fault]
        rewards = [e.reward.value for e in sound]
        assert values["reward/mean"] == pytest.approx(sum(rewards) / len(rewards))
        assert values["success/rate"] == pytest.approx(sum(r >= 1.0 for r in rewards) / len(rewards))
        assert values["episode/faults"] == pytest.approx((len(mine) - len(sound)) / len(mine))
        assert values.get("retries/lost", 0.0) == len(mine) - len(sound)
        assert values.get("retries/again", 0.0) == len(mine) - len(sound), "each was tried twice"
    held = episodes["heldout_before"]
    sound = [e for e in held if not e.stop.is_fault]
    found = summarise(lessons.copy(), held, 1.0)
    assert len(sound) < len(held) == 16
    assert (found.n, found.faults) == (len(sound), len(held) - len(sound))
    assert found.success == sum(e.reward.value >= 1.0 for e in sound) / len(sound)
    (said,) = [e for e in events_of(tmp_path / "run", "retries") if e.message.startswith("heldout_before: ")]
    assert said.fields == {"faults": 6.0, "again": 3.0, "lost": 3.0, "env": 6.0, "raised": 6.0}


def played_groups(episodes):
    """The groups of stored episodes, and the same without their faulty members."""
    found: dict[str, list] = {}
    for e in sorted(episodes, key=lambda e: e.id):
        found.setdefault(e.group, []).append(e)
    groups = [EpisodeGroup(id=name, task=mine[0].task, episodes=tuple(mine)) for name, mine in sorted(found.items())]
    return groups, [replace(g, episodes=tuple(e for e in g.episodes if not e.stop.is_fault)) for g in groups]


async def test_every_user_of_groups_takes_them_as_if_faults_were_not_there(tmp_path):
    """Credit, batches, measures, pass rates, dynamic sampling, results of attempts at one task: whole groups against the same
    ones without their faulty members."""
    episodes, _ = await asyncio.to_thread(doomed_run, tmp_path)
    every, sound = played_groups(episodes["train"])
    pairs = [(w, r) for w, r in zip(every, sound, strict=True) if len(r.episodes) > 1]
    assert any(len(w.episodes) > len(r.episodes) for w, r in pairs)
    groups, rest = [w for w, _ in pairs], [r for _, r in pairs]
    for rule in (TrajectoryCredit(), LitePPOCredit(), GiGPOCredit(omega=1.0, gamma=1.0)):
        credits, alone = await assigned(rule, groups), await assigned(rule, rest)
        for group, whole, part in zip(groups, credits, alone, strict=True):
            assert [v for v in whole.values if v is not None] == list(part.values)
            assert [r == "env_fault" for r in whole.reasons] == [e.stop.is_fault for e in group.episodes]
        config = BatchConfig(drop_silent=False)
        one, other = build_batch(groups, credits, config), build_batch(rest, alone, config)
        assert one.segments == other.segments and one.total_tokens == other.total_tokens
        assert one.dropped == {"env_fault": sum(e.stop.is_fault for g in groups for e in g.episodes)}
        measures = [episode_metrics(lessons.copy(), g, c) for g, c in ((groups, credits), (rest, alone))]
        for key in ("reward/mean", "reward/std", "success/rate", "signal/groups", "signal/zero_variance"):
            assert measures[0][key] == measures[1][key]
    assert [has_zero_variance(g) for g in groups] == [has_zero_variance(g) for g in rest]
    rates = [PassRateTasks(SpecTasks(lessons.copy(), "train", 0), success=1.0) for _ in range(2)]
    for source, told in zip(rates, (groups, rest), strict=True):
        for group in told:
            source.report(group.task, group)
    assert rates[0].state() == rates[1].state()
    for group, part in pairs:
        solved = [sum(e.reward.value >= 1.0 for e in g.valid) for g in (group, part)]
        assert pass_at_k(len(group.valid), solved[0], 2) == pass_at_k(len(part.valid), solved[1], 2)
        assert len(group.valid) == len(part.episodes)


async def assigned(rule, groups):
    credits = [await rule.assign(g) for g in groups]
    return rule.settle(groups, credits) if isinstance(rule, Settles) else credits


def test_incomplete_groups_are_dropped_or_filled_as_configured(tmp_path):
    drop = replace(HARSH, incomplete="drop_group")
    episodes, steps = doomed_run(tmp_path, retry=drop, batch=BatchConfig(drop_silent=False))
    for step, values in steps.items():
        broken = {e.group for e in episodes["train"] if e.step == step and e.stop.is_fault}
        assert values.get("retries/dropped", 0.0) == len(broken)
    assert any(values.get("retries/dropped") for values in steps.values())
    refill = replace(HARSH, incomplete="refill")
    episodes, steps = doomed_run(tmp_path / "second", retry=refill)
    extra = [e for e in episodes["train"] if e.id.endswith("+1")]
    assert len(extra) == sum(values.get("retries/refilled", 0.0) for values in steps.values()) > 0
    assert {e.id.removesuffix("+1") for e in extra} == {
        e.id for e in episodes["train"] if e.stop.is_fault and not e.id.endswith("+1")
    }


@pytest.mark.parametrize("asynchrony", [None, AsyncConfig(staleness=0)])
def test_dropped_groups_are_the_same_in_turns_and_overlapped(tmp_path, asynchrony):
    _, steps = doomed_run(tmp_path, retry=replace(HARSH, incomplete="drop_group"), asynchrony=asynchrony)
    assert [round(v["signal/groups"], 6) for v in steps.values()] == pytest.approx([v["signal/groups"] for v in steps.values()])
    assert all(v["episode/count"] == 8.0 for v in steps.values()), "they were played, and are counted as played"


def test_dynamic_sampling_takes_no_fault_for_a_difference(tmp_path):
    """A group of equal rewards and faults has no signal: faults are no rewards of 0."""
    episodes, _ = doomed_run(tmp_path, dynamic=DynamicConfig(max_rounds=3), steps=2)
    by_group: dict[str, set[float]] = {}
    for e in episodes["train"]:
        found = by_group.setdefault(e.group, set())
        if not e.stop.is_fault:
            found.add(e.reward.value)
    with Run.open(tmp_path / "run") as run:
        replaced = sum(s.values.get("signal/replaced", 0) or 0 for s in run.steps())
        silent = sum(len(found) < 2 for found in by_group.values())
    assert replaced <= silent


def test_overfull_repairs_are_refused():
    with pytest.raises(ConfigError, match=r"batch\.repair fills the places"):
        run_of(batch=BatchConfig(repair=True), retry=replace(HARSH, incomplete="refill")).validate()
    with pytest.raises(ConfigError, match="attempts >= 1"):
        run_of(retry=RetryConfig(attempts=0)).validate()


OUTAGE = RetryConfig(
    attempts=3, seconds=0.001, cap_seconds=0.002, reserve=1000,
    breaker=BreakerConfig(streak=4, seconds=0.05, cap_seconds=0.1, patience=60.0),
)  # fmt: skip


@pytest.mark.parametrize("asynchrony", [None, AsyncConfig(staleness=0)])
def test_an_outage_parks_the_run_and_costs_it_nothing(clean, tmp_path, asynchrony):
    def listen(progress):
        if (progress.phase, progress.done) == ("train", 1):
            Weather.until = time.monotonic() + 1.0

    job.run(run_of(retry=OUTAGE, asynchrony=asynchrony), tmp_path / "run", listener=listen)
    assert compared(tmp_path / "run") == clean
    said = events(tmp_path / "run", "breaker")
    assert said[0].startswith("source 'probe-copy' is open: ") and said[-1] == "source 'probe-copy' is closed"
    assert Weather.tried < 8 * 4 + 3 * 5 + 60, "it is probed, not stormed"


def test_an_outage_that_lasts_ends_the_run_which_can_be_resumed(clean, tmp_path):
    def listen(progress):
        if (progress.phase, progress.done) == ("train", 3):
            Weather.until = time.monotonic() + 1e6

    soon = replace(OUTAGE, breaker=replace(OUTAGE.breaker, patience=0.3))
    with pytest.raises(SourceDown, match="source 'probe-copy' gave nothing but faults for"):
        job.run(run_of(retry=soon), tmp_path / "run", listener=listen)
    assert any("SourceDown" in said for said in events(tmp_path / "run", "failure"))
    Weather.until = 0.0
    job.run(run_of(retry=OUTAGE), tmp_path / "run", resume=True)  # more patient than before, which is no other run
    with pytest.raises(RunFolderError, match=r"retry\.incomplete"):
        job.run(run_of(retry=replace(OUTAGE, incomplete="refill")), tmp_path / "run", resume=True)
    assert compared(tmp_path / "run") == clean


@pytest.mark.parametrize("asynchrony", [None, AsyncConfig(staleness=1)])
def test_when_all_sources_are_down_the_run_waits_and_goes_on(tmp_path, asynchrony):
    """Two sources, both out of order for a while: nothing is drawn meanwhile, no group is lost."""

    def listen(progress):
        if (progress.phase, progress.done) == ("train", 1):
            Weather.until = time.monotonic() + 1.0

    world = SourceConfig(env=EnvChoice(name="test_faults_in_runs:shaky"))
    given = run_of(
        env=EnvChoice(), sources={"left": world, "right": world}, retry=OUTAGE, asynchrony=asynchrony,
        evaluation=EvalConfig(tasks=0),
    )  # fmt: skip
    job.run(given, tmp_path / "run", listener=listen)
    with Run.open(tmp_path / "run") as run:
        played = list(run.episodes(Where(kind="train")))
        opened = {str(e.fields["source"]) for e in run.events() if e.kind == "breaker" and e.fields["state"] == "open"}
    assert opened == {"left", "right"}
    assert len(played) == 4 * 2 * 4 and not any(e.stop.is_fault for e in played)
    assert set(Counter(e.task.env for e in played)) == {"left", "right"}


def test_a_world_that_never_works_ends_the_run_at_once(tmp_path):
    Weather.until = time.monotonic() + 1e6
    with pytest.raises(AllFaulted, match="nobody listens"):
        job.run(run_of(retry=OUTAGE, evaluation=EvalConfig(tasks=0)), tmp_path / "run")


class Endless:
    """A credit rule that never comes to an end."""

    async def assign(self, group, rerun=None):
        await asyncio.Event().wait()


def test_credit_that_never_comes_ends_the_run_with_what_to_do(tmp_path):
    given = run_of(
        credit="test_faults_in_runs:Endless", deadlines=Deadlines(credit_seconds=0.05), evaluation=EvalConfig(tasks=0)
    )
    with pytest.raises(Overdue, match=r"a step's credit \(deadlines\.credit_seconds\) gave no answer within 0\.05 s"):
        job.run(given, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"deadlines\.credit_seconds must be positive"):
        run_of(deadlines=Deadlines(credit_seconds=0.0)).validate()


def test_why_says_which_source_is_waited_for():
    breakers = Breakers(BreakerConfig(streak=2), clock=lambda: 0.0)
    for ok in (True, False, False):
        breakers.record("walk", ok)
    stage = Stage(spec=None, policy=None, chat=None, agent=None, retries=SimpleNamespace(breakers=breakers))
    assert stage.waits().startswith("nothing is awaited; source 'walk': 2 of its last 3 attempts faulted")
