"""Circuit breakers.

Pinned by hand: when one opens, how long it stays so, that one group probes it and no other, what closes it; that what began
before an outage says nothing about it. As properties: at most one probe is out, pauses never exceed the cap, nobody is let in
while it is open. Waiting: a source that never worked is not waited for; one the run cannot do without is, until `patience`.
"""

from __future__ import annotations

import asyncio

import pytest
from fake_time import FakeTime
from hypothesis import given
from hypothesis import strategies as st

from phronesis.errors import AllFaulted, ConfigError, SourceDown
from phronesis.rollout.breaker import POLICY, Breaker, BreakerConfig, Breakers, State, rubric_of

SMALL = BreakerConfig(window=4, least=2, share=0.5, seconds=10.0, cap_seconds=35.0, patience=100.0, park_seconds=15.0)


def opened(time: FakeTime, config: BreakerConfig = SMALL) -> Breaker:
    """A breaker that worked at 0 s and opened at 0 s."""
    breaker = Breaker(config, time.clock)
    breaker.record(True)
    breaker.record(False)
    assert breaker.state is State.open
    return breaker


def test_it_opens_at_the_share_of_enough_attempts():
    breaker = Breaker(SMALL, FakeTime().clock)
    breaker.record(False)
    assert breaker.state is State.closed, "one attempt is fewer than `least`"
    breaker.record(True)
    assert breaker.state is State.open, "one of two is the share"
    exact = Breaker(BreakerConfig(window=32, least=20, share=0.8, streak=99), FakeTime().clock)
    for ok in [True] * 7 + [False] * 25:  # 25 of 32 is .78
        exact.record(ok)
    assert exact.state is State.closed
    exact.record(False)  # the oldest success leaves the window: 26 of 32 is .8125
    assert exact.state is State.open and exact.opened == 1


def test_the_window_forgets():
    breaker = Breaker(BreakerConfig(window=4, least=4, share=0.75, streak=9), FakeTime().clock)
    for ok in (False, False, True, True, False, False):  # never three of the last four
        breaker.record(ok)
        assert breaker.state is State.closed
    breaker.record(False)
    assert breaker.state is State.open


def test_a_streak_opens_it_whatever_came_before():
    breaker = Breaker(BreakerConfig(), FakeTime().clock)
    for ok in [True] * 32 + [False] * 7 + [True] + [False] * 7:
        breaker.record(ok)
    assert (breaker.state, breaker.faults) == (State.closed, (14, 32))
    breaker.record(False)
    assert (breaker.state, breaker.faults) == (State.open, (15, 32))


def test_faults_that_end_sooner_than_successes_do_not_open_it():
    """Sixty attempts at once, eighteen of which fault at their first action, before any other has ended."""
    breaker = Breaker(BreakerConfig(), FakeTime().clock)
    breaker.under_way = 60
    for _ in range(18):
        breaker.under_way -= 1
        breaker.record(False)
    assert breaker.state is State.closed
    for _ in range(42):
        breaker.under_way -= 1
        breaker.record(True)
    assert breaker.state is State.closed and breaker.faults == (0, 32)


def test_an_outage_under_many_attempts_opens_it_with_the_first_wave():
    breaker = Breaker(BreakerConfig(), FakeTime().clock)
    breaker.worked, breaker.under_way = True, 60
    for left in range(59, -1, -1):
        breaker.under_way = left
        breaker.record(False)
        if breaker.state is State.open:
            break
    assert left == 12  # 48 faults in a row beside 12 attempts that go on are four in five


def test_attempts_that_are_made_are_counted_also_when_they_are_cut_off():
    breakers = Breakers(BreakerConfig())
    with pytest.raises(KeyError), breakers.under_way(["a", "b"]):
        assert (breakers.of("a").under_way, breakers.of("b").under_way) == (1, 1)
        raise KeyError
    assert breakers.of("a").under_way == 0


def test_pauses_double_up_to_the_cap_and_a_success_closes():
    time = FakeTime()
    breaker = opened(time)
    ends: list[float] = []
    for _ in range(4):
        ends.append(breaker.probe_at)
        time.now = breaker.probe_at - 0.5
        assert not breaker.allows()
        time.now = breaker.probe_at
        assert breaker.allows()
        breaker.begin("probe")
        assert breaker.state is State.half_open
        assert breaker.allows("probe") and not breaker.allows("other") and not breaker.allows()
        breaker.record(False, "probe")
    assert ends == [10.0, 10.0 + 20.0, 30.0 + 35.0, 65.0 + 35.0]
    time.now = breaker.probe_at
    breaker.begin("last")
    breaker.record(True, "last")
    assert breaker.state is State.closed and breaker.faults == (0, 1) and breaker.why() == ""
    breaker.record(False)
    assert breaker.state is State.open and breaker.probe_at == time.now + 10.0, "the pauses begin anew"


def test_only_the_probe_speaks_while_it_is_out():
    time = FakeTime()
    breaker = opened(time)
    breaker.record(True, "began before")
    assert breaker.state is State.open
    time.now = 10.0
    breaker.begin("probe")
    breaker.record(False, "began before")
    assert breaker.state is State.half_open
    breaker.withdraw("began before")
    assert breaker.state is State.half_open
    breaker.withdraw("probe")
    assert breaker.state is State.open and breaker.allows(), "nobody knows more than before, so another may try at once"


def test_why_says_since_when_and_when_next():
    time = FakeTime()
    breaker = opened(time)
    time.now = 4.0
    assert breaker.why() == "1 of its last 2 attempts faulted, nothing but faults for 4 s, next probe in 6 s"
    time.now = 10.0
    breaker.begin("p")
    assert breaker.why().endswith("a probe is out")


@pytest.mark.parametrize(
    "wrong",
    [{"window": 0}, {"least": 0}, {"least": 33}, {"streak": 0}, {"share": 0.0}, {"share": 1.1}, {"seconds": 0.0},
     {"cap_seconds": 1.0}, {"patience": 0.0}, {"park_seconds": -1.0}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="breaker needs"):
        Breakers(BreakerConfig(**wrong))


MOVES = st.lists(
    st.tuples(st.sampled_from(["ok", "fault", "begin", "withdraw", "pass"]), st.sampled_from("abc"), st.floats(0, 50)),
    max_size=60,
)


@given(MOVES)
def test_its_promises_hold_for_any_history(moves):
    time = FakeTime()
    breaker = Breaker(SMALL, time.clock)
    probe: str | None = None
    for move, group, seconds in moves:
        before = breaker.state
        allowed = breaker.allows(group)
        if move == "pass":
            time.now += seconds
        elif move == "begin" and allowed:
            breaker.begin(group)
            if before is State.open:
                probe = group
        elif move == "withdraw":
            breaker.withdraw(group)
        elif move in ("ok", "fault"):
            breaker.record(move == "ok", group)
        if before is State.open:
            assert breaker.state is State.open or (move == "begin" and breaker.state is State.half_open)
        if breaker.state is State.half_open:
            assert [g for g in "abc" if breaker.allows(g)] == [probe]
        if breaker.state is State.open:
            assert breaker.probe_at <= time.now + SMALL.cap_seconds
        assert breaker.faulting >= 0 and (breaker.faulting == 0 or breaker.since is not None)
        if move == "ok":
            assert breaker.worked and breaker.since is None


def test_a_source_stands_for_its_rubric_and_the_policy():
    breakers = Breakers(SMALL, clock=FakeTime().clock)
    assert breakers.allows("walk")
    for source in (rubric_of("walk"), POLICY):
        other = Breakers(SMALL, clock=FakeTime().clock)
        for ok in (True, False):
            other.record(source, ok)
        assert not other.allows("walk") and other.allows("maze") is (source != POLICY)
    assert breakers.metrics() == {} and breakers.why() == ""


def test_changes_are_told_and_counted():
    time, told = FakeTime(), []
    breakers = Breakers(SMALL, note=lambda *said: told.append(said), clock=time.clock)
    for ok in (True, False):
        breakers.record("walk", ok)
    assert told == [("walk", "open", "1 of its last 2 attempts faulted, nothing but faults for 0 s, next probe in 10 s")]
    assert breakers.metrics() == {"breaker/open": 1.0, "breaker/opened": 1.0}
    time.now = 10.0
    breakers.begin("walk", "g")
    breakers.record("walk", True, "g")
    assert [state for _, state, _ in told] == ["open", "half_open", "closed"]
    assert breakers.metrics() == {"breaker/open": 0.0, "breaker/opened": 1.0}


def broken(breakers: Breakers, source: str = "walk", *, worked: bool = True) -> Breakers:
    for ok in (worked, False):
        breakers.record(source, ok)
    return breakers


def test_one_group_probes_and_the_others_wait_for_its_outcome():
    time = FakeTime()
    breakers = broken(Breakers(SMALL, clock=time.clock, wait=time.wait))
    began: list[tuple[str, float]] = []

    async def group(name: str, ok: bool) -> None:
        assert await breakers.enter(("walk", POLICY), name) is None
        began.append((name, time.now))
        await time.sleep(3.0)
        breakers.record("walk", ok, name)

    async def work() -> None:
        groups = [asyncio.ensure_future(group(name, name != "a")) for name in "abcd"]
        while not breakers.parked.get("walk"):
            await asyncio.sleep(0)
        assert "4 episodes wait for it" in breakers.why()
        await asyncio.gather(*groups)

    time.run(work())
    # opened at 0: a probes at 10 and faults at 13; b probes at 33 and works at 36; then the rest
    assert began == [("a", 10.0), ("b", 33.0), ("c", 36.0), ("d", 36.0)]
    assert breakers.parked == {"walk": 0}


def test_two_probes_never_wait_for_each_other():
    time = FakeTime()
    breakers = broken(broken(Breakers(SMALL, clock=time.clock, wait=time.wait)), POLICY)
    began: list[tuple[str, float]] = []

    async def group(name: str) -> None:
        await breakers.enter(("walk", POLICY), name)
        began.append((name, time.now))
        await time.sleep(1.0)
        for source in ("walk", POLICY):
            breakers.record(source, True, name)

    async def work() -> None:
        await asyncio.gather(group("a"), group("b"))

    time.run(work())
    assert began == [("a", 10.0), ("b", 11.0)]


def test_a_source_that_never_worked_is_not_waited_for():
    time = FakeTime()
    breakers = broken(Breakers(SMALL, clock=time.clock, wait=time.wait), worked=False)
    breakers.record("walk", False)
    assert time.run(breakers.enter(("walk",), "g")) == "walk" and time.now == 0.0


def test_patience_ends_with_a_typed_error_that_says_what_to_do():
    time = FakeTime()
    breakers = broken(Breakers(SMALL, clock=time.clock, wait=time.wait))

    async def forever() -> None:
        while True:
            await breakers.enter(("walk",), "g")
            breakers.record("walk", False, "g")

    with pytest.raises(SourceDown, match=r"'walk' gave nothing but faults for 100 s; mend it and resume"):
        time.run(forever())
    assert time.now == 100.0
    assert issubclass(SourceDown, AllFaulted)


def test_a_source_among_others_is_waited_for_only_briefly():
    time = FakeTime()
    config = BreakerConfig(window=4, least=2, share=0.5, seconds=20.0, cap_seconds=35.0, patience=100.0, park_seconds=15.0)
    breakers = broken(Breakers(config, sources=("walk", "maze"), clock=time.clock, wait=time.wait))
    assert time.run(breakers.enter(("walk",), "g")) == "walk" and time.now == 15.0
    assert time.run(breakers.enter(("walk",), "h")) is None and time.now == 20.0, "five seconds later the probe is due"
    policy = broken(Breakers(config, sources=("walk", "maze"), clock=time.clock, wait=time.wait), POLICY)
    assert time.run(policy.enter(("walk", POLICY), "g")) is None and time.now == 40.0, "no source does without the policy"


def test_an_evaluation_waits_for_every_source():
    """The same breakers, so that what was learned of a source is known; but it does without none of them."""
    time = FakeTime()
    config = BreakerConfig(window=4, least=2, share=0.5, seconds=20.0, cap_seconds=35.0, patience=100.0, park_seconds=15.0)
    breakers = broken(Breakers(config, sources=("walk", "maze"), clock=time.clock, wait=time.wait))
    patient = breakers.patient()
    assert time.run(patient.enter(("walk",), "g")) is None and time.now == 20.0
    patient.record("walk", True, "g")
    assert breakers.of("walk").state is State.closed and breakers.sources == ("walk", "maze")


def test_waiting_until_any_environment_is_used_again():
    time = FakeTime()
    breakers = broken(broken(Breakers(SMALL, sources=("walk", "maze"), clock=time.clock, wait=time.wait)), "maze")
    time.now = 5.0
    time.run(breakers.any_of(("walk", "maze", "other")))
    assert time.now == 5.0, "one of them was never left alone"
    time.run(breakers.any_of(("walk", "maze")))
    assert time.now == 10.0
    for source in ("walk", "maze"):
        breakers.begin(source, "g")
        breakers.record(source, False, "g")
    time.run(breakers.any_of(("walk", "maze")))
    assert time.now == 30.0

    async def both_stay_away() -> None:
        while True:
            await breakers.any_of(("walk", "maze"))
            for source in ("walk", "maze"):
                breakers.begin(source, "g")
                breakers.record(source, False, "g")

    with pytest.raises(SourceDown, match="nothing but faults for 100 s"):
        time.run(both_stay_away())


def test_a_source_is_waited_for_patiently_while_no_other_can_be_played():
    time = FakeTime()
    config = BreakerConfig(window=4, least=2, share=0.5, seconds=20.0, cap_seconds=35.0, patience=100.0, park_seconds=15.0)
    breakers = Breakers(config, sources=("walk", "maze"), clock=time.clock, wait=time.wait)
    broken(broken(breakers), "maze")
    assert time.run(breakers.enter(("walk", POLICY), "g")) is None and time.now == 20.0, "not given up after 15 s"
    assert breakers.why().startswith("source 'maze': 1 of its last 2 attempts faulted") and "source 'walk'" in breakers.why()
