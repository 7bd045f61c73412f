"""Retries of infrastructure faults.

Pinned: a retry that succeeds gives the episode a clean first try would have given; attempts, budget and pauses by hand; which
failures are not worth a retry; that nobody holds the gate while waiting; what is told and counted; that a rubric is asked again
without playing again; that an outage costs no attempts but parks; what is played besides members that still fault.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace as replace_data

import pytest
from fake_time import FakeTime
from hypothesis import given
from hypothesis import strategies as st
from rollout_worlds import TASK, Ones, SavedWalk, Walk, policy_of, stage_of, thinking
from test_session_tokens import strip_times

from phronesis.engine.scripted import ScriptedPolicy
from phronesis.errors import ConfigError, PolicyFault, SourceDown
from phronesis.records import Failure, Stop
from phronesis.rollout.breaker import POLICY, BreakerConfig, Breakers
from phronesis.rollout.play import play_groups
from phronesis.rollout.repair import left_out, refill_id, with_refills
from phronesis.rollout.retries import Budget, Retries, RetryConfig, Tried, blame, is_hopeless, manner, place
from phronesis.seeding import rng, stream

NEVER = BreakerConfig(window=10_000, least=10_000, streak=10_000)
"""A breaker that does not open in a test."""
PLAIN = RetryConfig(attempts=3, share=0.0, reserve=100, seconds=1.0, cap_seconds=4.0, jitter=0.0, breaker=NEVER)


class Shaky(Walk):
    """Faults at reset as often as `faults` says for an episode's seed; counts the attempts at each."""

    def __init__(self, faults, tried, error=ConnectionError):
        super().__init__()
        self.faults, self.tried, self.error = faults, tried, error

    async def reset(self, task, seed):
        self.tried[seed] += 1
        if self.tried[seed] <= self.faults(seed):
            raise self.error(f"attempt {self.tried[seed]}")
        return await super().reset(task, seed)


def world(faults=lambda seed: 0, config=PLAIN, time=None, error=ConnectionError, sources=(), **options):
    """A stage of shaky walks on fake time; with it the time, what was told, and the attempts by environment seed."""
    time = time or FakeTime()
    told: list[Tried] = []
    tried: Counter[int] = Counter()
    stage = stage_of(lambda: Shaky(faults, tried, error), policy_of(*[thinking(None, "stop")] * 200), **options)
    breakers = Breakers(config.breaker, sources=sources, clock=time.clock, wait=time.wait)
    retries = Retries(config, seed=7, breakers=breakers, note=told.append, sleep=time.sleep)
    return replace_data(stage, retries=retries), time, told, tried


def play_all(stage, time, n=2, size=3, **options):
    return time.run(play_groups(stage, [TASK] * n, size=size, seed=5, name="train", step=4, **options))


def bare(groups):
    return [strip_times(e) for g in groups for e in g.episodes]


def test_a_retry_gives_the_episode_a_clean_first_try_would_have_given():
    clean = play_all(world()[0], FakeTime())
    stage, time, told, tried = world(lambda seed: seed % 3)
    groups = play_all(stage, time)
    assert bare(groups) == bare(clean) and all(e.reward is not None for g in groups for e in g.episodes)
    assert sorted(tried.values()) == sorted(1 + seed % 3 for seed in tried), "each was begun as often as it had to be"
    faults = sum(seed % 3 for seed in tried)
    assert faults > 0 and len(told) == faults and {t.next for t in told} == {"again"}
    saved = sum(seed % 3 > 0 for seed in tried)
    want = {"faults": faults, "env": faults, "raised": faults, "again": faults, "saved": saved}
    assert stage.retries.metrics() == {f"retries/{k}": float(v) for k, v in want.items()}
    assert stage.retries.metrics() == {}, "asked again, nothing new has happened"


def test_every_attempt_has_an_environment_of_its_own_and_closes_it():
    made = []

    class Kept(Shaky):
        def __init__(self):
            super().__init__(lambda seed: 2, tried)
            made.append(self)

    stage, time, _, tried = world()
    stage = replace_data(stage, spec=replace_data(stage.spec, make=Kept))
    (group,) = play_all(stage, time, n=1, size=1)
    assert group.episodes[0].stop is Stop.completed
    assert [env.closed for env in made] == [1, 1, 1]


def test_what_still_faults_stays_a_fault_and_is_told():
    stage, time, told, tried = world(lambda seed: 99)
    (group,) = play_all(stage, time, n=1, size=1)
    episode = group.episodes[0]
    assert (episode.stop, episode.reward, episode.failure.kind) == (Stop.env_fault, None, "ConnectionError")
    assert episode.failure.message == "attempt 3" and list(tried.values()) == [3]
    assert [(t.id, t.attempt, t.next) for t in told] == [
        ("train-4-0-0", 1, "again"), ("train-4-0-0", 2, "again"), ("train-4-0-0", 3, "given up"),
    ]  # fmt: skip
    assert told[0].said == "train-4-0-0, attempt 1: ConnectionError in env.reset: attempt 1 (again)"
    assert time.slept == [1.0, 2.0]
    assert stage.retries.metrics()["retries/lost"] == 1.0


def test_pauses_by_hand_and_their_jitter():
    assert [PLAIN.pause(0, "e", n) for n in range(1, 6)] == [1.0, 2.0, 4.0, 4.0, 4.0]
    assert [RetryConfig(jitter=0.0).pause(0, "e", n) for n in (1, 2, 6, 7, 2000)] == [0.25, 0.5, 8.0, 10.0, 10.0]
    u = rng(3, "retry", "e", 2).random()
    assert RetryConfig().pause(3, "e", 2) == 0.5 * (1 - 0.5 * u)
    assert RetryConfig().pause(3, "e", 2) == RetryConfig().pause(3, "e", 2) != RetryConfig().pause(3, "f", 2)


@given(st.lists(st.booleans(), max_size=200), st.floats(0, 2), st.integers(0, 20))
def test_retries_never_exceed_their_share_of_the_episodes_begun(moves, share, reserve):
    budget = Budget(share, reserve)
    for begins in moves:
        if begins:
            budget.begin()
        else:
            could = budget.spent + 1 <= share * budget.begun + reserve
            assert budget.spend() is could
        assert budget.spent <= share * budget.begun + reserve


def test_a_dead_service_causes_no_storm():
    config = RetryConfig(attempts=50, share=0.2, reserve=4, seconds=0.0, breaker=NEVER)
    stage, time, told, tried = world(lambda seed: 999, config)
    play_all(stage, time, n=10, size=4)
    begun = 40 + 10  # episodes, and judgements of groups
    assert 40 + 0.2 * 40 < sum(tried.values()) <= 40 + 0.2 * begun + 4
    kinds = Counter(t.next for t in told)
    assert kinds == {"again": sum(tried.values()) - 40, "over budget": 40}
    assert stage.retries.metrics()["retries/refused"] == 40.0


def test_some_failures_are_not_worth_a_retry():
    stage, time, told, tried = world(lambda seed: 99, error=ConfigError)
    play_all(stage, time, n=1, size=2)
    assert list(tried.values()) == [1, 1] and [t.next for t in told] == ["hopeless"] * 2
    kinds = {"ConfigError": True, "UnknownName": True, "Untrainable": True, "ReplayDiffers": True, "EnvFault": False,
             "Hung": False, "ConnectionError": False, "EndpointFault": False, "KeyError": False}  # fmt: skip
    assert {k: is_hopeless(Failure(where="env.step", kind=k, message="")) for k in kinds} == kinds


def test_an_episode_that_someone_stopped_is_not_played_again():
    class Stopping(Walk):
        async def step(self, action):
            return replace_reply(await super().step(action))

    def replace_reply(reply):
        from msgspec.structs import replace

        return replace(reply, done=True, stop=Stop.cancelled)

    stage, time, told, _ = world()
    stage = replace_data(stage, spec=replace_data(stage.spec, make=Stopping))
    (group,) = play_all(stage, time, n=1, size=1)
    assert told == [] and group.episodes[0].stop is not Stop.completed


def test_waiting_holds_no_place_at_the_gate():
    stage, time, _, _ = world(lambda seed: seed == first and 2)
    first = stream(stream(5, "train", 4, 0, 0), "env")
    order: list[str] = []
    retries = stage.retries
    entered = retries._attempt

    async def attempt(work, once):
        found = await entered(work, once)
        order.append(work.id)
        return found

    retries._attempt = attempt
    play_all(stage, time, n=1, size=3, concurrency=1)
    ids = [i for i in order if not i.endswith("rubric")]
    assert ids == ["train-4-0-0", "train-4-0-1", "train-4-0-2", "train-4-0-0", "train-4-0-0"]


def test_a_policy_that_fails_is_asked_again_from_the_start():
    stage, time, told, _ = world()
    talk, failures = stage.policy, iter([True, True])

    class Flaky(ScriptedPolicy):
        async def sample(self, prompt, params):
            if next(failures, False):
                raise PolicyFault("no answer")
            return await talk.sample(prompt, params)

    (group,) = play_all(replace_data(stage, policy=Flaky([], vocab_size=300)), time, n=1, size=1)
    assert group.episodes[0].stop is Stop.completed
    assert [(t.failure.where, t.failure.kind) for t in told] == [("policy.sample", "PolicyFault")] * 2
    assert stage.retries.metrics()["retries/policy"] == 2.0


def test_a_rubric_is_asked_again_without_playing_again():
    asked = []

    class Judge(Ones):
        async def score(self, group):
            asked.append(group)
            if len(asked) < 3:
                raise TimeoutError("the judge is busy")
            return await super().score(group)

    stage, time, told, tried = world(rubric=Judge())
    (group,) = play_all(stage, time, n=1, size=3)
    assert [e.reward.value for e in group.episodes] == [1.0] * 3 and len(asked) == 3
    assert asked[0] == asked[1] == asked[2], "it is asked about the same episodes, none of them a fault yet"
    assert list(tried.values()) == [1, 1, 1]
    assert [(t.id, t.attempt) for t in told] == [("train-4-0/rubric", 1), ("train-4-0/rubric", 2)]
    assert stage.retries.metrics()["retries/rubric"] == 2.0


def test_a_rubric_that_never_answers_makes_faults_without_reward():
    class Judge:
        async def score(self, group):
            raise OSError("gone")

    stage, time, _, _ = world(rubric=Judge())
    (group,) = play_all(stage, time, n=1, size=2)
    assert [(e.stop, e.reward, e.failure.where) for e in group.episodes] == [(Stop.env_fault, None, "rubric.score")] * 2


OUTAGE = RetryConfig(
    attempts=2, share=0.0, reserve=100, seconds=0.0, jitter=0.0,
    breaker=BreakerConfig(window=4, least=2, share=1.0, seconds=10.0, cap_seconds=40.0, patience=300.0, park_seconds=15.0),
)  # fmt: skip


def down_between(stage, time, begin, end, counts):
    """The stage's world, out of order between two times."""

    class Out(SavedWalk):
        async def reset(self, task, seed):
            counts["reset"] += 1
            if begin <= time.now < end:
                counts["faults"] += 1
                raise ConnectionRefusedError("down")
            return await super().reset(task, seed)

    return replace_data(stage, spec=replace_data(stage.spec, make=Out))


def test_an_outage_parks_episodes_and_costs_none_of_them():
    stage, time, told, _ = world(config=OUTAGE)
    clean = play_all(down_between(stage, time, 1e9, 1e9, Counter()), time, n=4, size=2)
    counts: Counter[str] = Counter()
    began = time.now
    groups = play_all(down_between(stage, time, began, began + 60.0, counts), time, n=4, size=2)
    assert bare(groups) == bare(clean)
    # four faults in a row open it, so that at most the other four fault besides; probes at 10 and 30 fault, that at 70 works
    assert 4 + 2 <= counts["faults"] <= 8 + 2 and counts["reset"] == counts["faults"] + 8
    assert time.now == began + 70.0
    assert {t.next for t in told} <= {"parked", "again"}


def test_an_outage_beyond_patience_ends_the_run():
    stage, time, _, _ = world(config=OUTAGE)
    play_all(down_between(stage, time, 1e9, 1e9, Counter()), time, n=1)
    with pytest.raises(SourceDown, match="'walk' gave nothing but faults for 300 s"):
        play_all(down_between(stage, time, 0.0, 1e9, Counter()), time, n=4)


def test_a_source_that_the_run_can_do_without_makes_faults_after_a_while():
    stage, time, _, _ = world(config=OUTAGE, sources=("walk", "maze"))
    play_all(down_between(stage, time, 1e9, 1e9, Counter()), time, n=1)
    counts: Counter[str] = Counter()
    groups = play_all(down_between(stage, time, 0.0, 1e9, counts), time, n=4, size=2)
    assert all(e.stop.is_fault and e.reward is None for g in groups for e in g.episodes) and time.now == 15.0
    later = play_all(down_between(stage, time, 0.0, 1e9, counts), time, n=4, size=2)
    left = [e for g in later for e in g.episodes if e.failure.where == "breaker"]
    assert left and all((e.stop, e.failure.kind, e.turns) == (Stop.infra_fault, "LeftAlone", ()) for e in left)
    assert "source 'walk' is left alone: " in left[0].failure.message


@pytest.mark.parametrize(
    ("where", "part", "whose"),
    [("env.reset", "env", "walk"), ("chat.open", "env", "walk"), ("env.close", "env", "walk"),
     ("policy.chat", "policy", POLICY), ("agent.run", "agent", None)],
)  # fmt: skip
def test_whom_a_failure_speaks_against(where, part, whose):
    failure = Failure(where=where, kind="Hung", message="")
    assert place(failure) == part and blame(failure, ("walk", POLICY)) == whose and manner(failure) == "hung"


def test_whom_a_rubric_speaks_against():
    failure = Failure(where="rubric.score", kind="EnvFault", message="")
    assert (place(failure), blame(failure, ("walk/rubric",)), manner(failure)) == ("rubric", "walk/rubric", "contract")


def always(*members):
    """Faults without end for these members of group 0."""
    seeds = {stream(stream(5, "train", 4, 0, m), "env") for m in members}
    return lambda seed: 99 if seed in seeds else 0


def test_refill_plays_others_besides_those_that_still_fault():
    config = RetryConfig(attempts=2, share=0.0, reserve=100, seconds=0.0, incomplete="refill", breaker=NEVER)
    stage, time, _, _ = world(always(1), config)
    (group,) = play_all(stage, time, n=1, size=3)
    assert [e.id for e in group.episodes] == ["train-4-0-0", "train-4-0-1", "train-4-0-2", "train-4-0-1+1"]
    assert [e.stop.is_fault for e in group.episodes] == [False, True, False, False]
    assert group.episodes[3].seed == stream(group.episodes[1].seed, "refill") and len(group.valid) == 3
    assert stage.retries.metrics()["retries/refilled"] == 1.0
    rest, time, _, _ = world(always(1), RetryConfig(attempts=2, seconds=0.0, breaker=NEVER))
    (three,) = play_all(rest, time, n=1, size=3)
    assert len(three.episodes) == 3 and len(three.valid) == 2
    assert [left_out(g, rule) for g in (three, group) for rule in ("learn_from_rest", "drop_group", "refill")] == [
        False, True, False, False, True, False,
    ]  # fmt: skip


def test_a_group_comes_back_with_what_was_played_besides():
    config = RetryConfig(attempts=1, seconds=0.0, incomplete="refill", breaker=NEVER)
    stage, time, _, _ = world(always(1), config)
    (group,) = play_all(stage, time, n=1, size=3)
    stored = {e.id: e for e in group.episodes}
    names = [f"train-4-0-{m}" for m in range(3)]
    assert with_refills(names, stored) == group.episodes
    (clean,) = play_all(world()[0], FakeTime(), n=1, size=3)
    sound = stored | {e.id: e for e in clean.episodes}
    assert with_refills(names, sound) == clean.episodes, "what an earlier life played besides a member that is sound now"
    assert refill_id(names[1]) in sound


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"share": -0.1}, {"reserve": -1}, {"seconds": -1.0}, {"cap_seconds": 0.1}, {"jitter": 1.5},
     {"breaker": BreakerConfig(window=0)}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        Retries(RetryConfig(**wrong), seed=0)


def test_giving_up_leaves_no_probe_behind():
    stage, time, _, _ = world(config=OUTAGE)
    breakers = stage.retries.breakers
    for ok in (True, False, False, False, False):
        breakers.record("walk", ok)
    time.now = 10.0
    stuck = asyncio.Event()

    class Stuck(Walk):
        async def reset(self, task, seed):
            stuck.set()
            await asyncio.Event().wait()

    stage = replace_data(stage, spec=replace_data(stage.spec, make=Stuck))

    async def give_up():
        playing = asyncio.ensure_future(play_groups(stage, [TASK], size=1, seed=5, name="x"))
        await stuck.wait()
        assert not breakers.allows("walk"), "a probe is out"
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)

    asyncio.run(give_up())
    assert breakers.allows("walk")
