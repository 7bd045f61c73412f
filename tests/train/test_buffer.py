"""The promise of the buffer: batches are whole, nothing is lost, nothing is older than it may be, whatever finishes when."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phronesis.errors import ConfigError
from phronesis.records import Episode, EpisodeGroup, Finish, Stop, Task, Turn
from phronesis.train.buffer import Buffer, Started, oldest

TASK = Task(id="t", env="none")


def played(number: int, born: int = 0) -> EpisodeGroup:
    version, one = (born, born + 1), (1,)
    turn = Turn(
        parent=None, prompt_crc=0, context=one, completion=one, sampled=(True,), logprobs=(-1.0,), version=version,
        finish=Finish.stop,
    )  # fmt: skip
    return EpisodeGroup(
        id=str(number), task=TASK, episodes=(Episode(id=f"{number}-0", task=TASK, seed=0, stop=Stop.completed, turns=(turn,)),)
    )


def start(buffer: Buffer, n: int) -> list[int]:
    return [buffer.start(TASK).number for _ in range(n)]


def test_without_staleness_a_batch_is_what_was_started_since_the_last():
    buffer = Buffer(3, 0)
    assert buffer.room == 3 and start(buffer, 3) == [0, 1, 2] and buffer.room == 0
    with pytest.raises(ConfigError, match="no group may start at version 0: 3 are under way"):
        buffer.start(TASK)
    for number in (2, 0):
        buffer.finish(number, played(number))
        assert buffer.take() is None
    buffer.finish(1, played(1))
    batch = buffer.take()
    assert batch is not None and [s.number for s in batch] == [0, 1, 2]
    assert buffer.room == 0  # until the weights are new
    buffer.learned()
    assert buffer.room == 3 and buffer.version == 1


def test_a_slow_group_is_overtaken_until_it_is_due():
    """Batches of 2, one version of staleness: group 0 is slow, so 1 and 2 make the first batch; the next one waits for 0."""
    buffer = Buffer(2, 1, lead=None)
    assert start(buffer, 4) == [0, 1, 2, 3] and buffer.room == 0
    for number in (2, 1):
        buffer.finish(number, played(number))
    first = buffer.take()
    assert first is not None and [s.number for s in first] == [1, 2]
    buffer.learned()
    assert buffer.room == 2 and start(buffer, 2) == [4, 5]
    for number in (4, 5, 3):
        buffer.finish(number, played(number))
    assert [s.number for s in buffer.late] == [0] and buffer.take() is None
    buffer.finish(0, played(0))
    second = buffer.take()
    assert second is not None and [s.number for s in second] == [0, 3]


def test_nobody_starts_while_enough_lies_ready():
    buffer = Buffer(2, 3, lead=1)
    start(buffer, 4)
    assert buffer.room == 4
    for number in (0, 3):
        buffer.finish(number, played(number))
    assert buffer.room == 0
    assert buffer.take() is not None
    assert buffer.room == 4  # 2 are learned from, 2 are played, and 8 may be under way


def test_groups_beyond_max_age_are_left_out_counted_and_replaced():
    buffer = Buffer(1, 2, lead=None, max_age=0)
    start(buffer, 3)
    for number in (0, 1):
        buffer.finish(number, played(number))
    assert buffer.take() is not None
    buffer.learned()
    assert buffer.room == 1
    assert buffer.take() is None and buffer.left_out == 1
    assert buffer.room == 2  # one for the new version, one for the group left out


def test_what_is_left_comes_as_a_smaller_batch_when_nothing_else_will_start():
    buffer = Buffer(3, 1)
    start(buffer, 2)
    buffer.finish(1, played(1))
    assert buffer.take(partial=True) is None
    buffer.finish(0, played(0))
    assert buffer.take() is None
    batch = buffer.take(partial=True)
    assert batch is not None and [s.number for s in batch] == [0, 1]


@settings(max_examples=120, deadline=None)
@given(
    batch=st.integers(1, 4),
    staleness=st.integers(0, 4),
    lead=st.none() | st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_the_promise(batch: int, staleness: int, lead: int | None, seed: int):
    """Any order of starting, finishing, learning and restarting from what a checkpoint keeps."""
    random = Random(seed)
    buffer, learned, versions = Buffer(batch, staleness, lead=lead), list[int](), 12
    born: dict[int, int] = {}
    under: list[Started] | None = None
    while buffer.version < versions:
        playing = [n for n, s in buffer.held.items() if s.group is None]
        choices = ["take"] if under is None else ["learn"]
        choices += ["start"] if buffer.room else []
        choices += ["finish"] * 2 if playing else []
        choices += ["restart"] if under is None else []
        match random.choice(choices):
            case "start":
                born[buffer.start(TASK).number] = buffer.version
            case "finish":
                number = random.choice(playing)
                buffer.finish(number, played(number, born[number]))
            case "take":
                if not playing and not buffer.room:
                    assert buffer.waiting >= batch, "starved: nothing plays, nothing may start, and no batch is whole"
                under = buffer.take()
                if under is not None:
                    assert len(under) == batch
                    for entry in under:
                        assert buffer.version - entry.born <= staleness
                    learned += [s.number for s in under]
            case "learn":
                buffer.learned()
                under = None
            case _:
                again = Buffer(batch, staleness, lead=lead)
                again.restore(buffer.held.values(), version=buffer.version, started=buffer.started)
                born |= {n: s.born for n, s in again.held.items()}
                buffer = again
    assert len(set(learned)) == len(learned) == versions * batch
    assert set(learned) | set(buffer.held) == set(range(buffer.started))


def rebuilt(state: tuple, batch: int, staleness: int, lead: int | None, max_age: int | None) -> Buffer:
    """A buffer in a state: (born, oldest token, place in the order of finishing) of each group, groups taken, relative to 9."""
    groups, taken, _ = state
    buffer = Buffer(batch, staleness, lead=lead, max_age=max_age)
    buffer.version, buffer.taken, buffer.started, buffer._finished = 9, 9 * batch + taken, len(groups), len(groups)
    for number, (born, token, place) in enumerate(groups):
        group = None if place is None else played(number, 9 + token)
        buffer.held[number] = Started(number=number, task=TASK, born=9 + born, group=group, finished=place)
    return buffer


def state_of(buffer: Buffer, learning: bool) -> tuple:
    """What decides how it goes on."""
    places = {n: k for k, n in enumerate(sorted(s.finished for s in buffer.held.values() if s.finished is not None))}
    groups = [
        (s.born - buffer.version, (s.born if s.group is None else oldest(s.group, 0)) - buffer.version, places.get(s.finished))
        for s in buffer.held.values()
    ]
    order = sorted(groups, key=lambda g: (g[2] is None, g[2] or 0, g))
    return tuple(order), buffer.taken - buffer.version * buffer.batch, learning


@pytest.mark.parametrize("lead", [1, None])
@pytest.mark.parametrize("max_age", [None, 0, 1])
@pytest.mark.parametrize(("batch", "staleness", "reached"), [(1, 1, 16), (1, 2, 88), (2, 1, 82), (3, 0, 11)])
def test_every_state_that_can_be_reached_keeps_the_promise(batch, staleness, reached, max_age, lead):
    """All orders of starting, finishing, taking, learning and restarting: a group is never too old, and something can always
    go on."""
    settings = batch, staleness, lead, max_age
    seen = {((), 0, False)}
    todo = list(seen)
    while todo:
        state = todo.pop()
        learning, buffer = state[2], rebuilt(state, *settings)
        following = set()
        if buffer.room:
            buffer.start(TASK)
            following.add(state_of(buffer, learning))
        for number, (born, _, place) in enumerate(state[0]):
            for token in range(born, 1) if place is None else ():
                buffer = rebuilt(state, *settings)
                buffer.finish(number, played(number, 9 + (born if max_age is None else token)))
                following.add(state_of(buffer, learning))
        buffer = rebuilt(state, *settings)
        if learning:
            buffer.learned()
            following.add(state_of(buffer, False))
        else:
            taken = buffer.take()
            assert taken is None or [len(taken), *(9 - s.born <= staleness for s in taken)] == [batch] + [True] * batch
            assert taken is not None or buffer.playing or buffer.room, "nothing can go on"
            following.add(state_of(buffer, taken is not None))
            again = Buffer(batch, staleness, lead=lead, max_age=max_age)
            again.restore(rebuilt(state, *settings).held.values(), version=9, started=len(state[0]))
            following.add(state_of(again, False))
        todo += following - seen
        seen |= following
    assert len(seen) == reached if max_age is None else len(seen) >= reached


def test_the_oldest_token_counts():
    assert oldest(played(0, born=3), born=5) == 3
    assert oldest(EpisodeGroup(id="g", task=TASK, episodes=()), born=5) == 5


@pytest.mark.parametrize("numbers", [(0, 0, None, None), (1, -1, None, None), (1, 0, 0, None), (1, 0, None, -1)])
def test_numbers_out_of_range(numbers):
    batch, staleness, lead, max_age = numbers
    with pytest.raises(ConfigError, match="batch >= 1"):
        Buffer(batch, staleness, lead=lead, max_age=max_age)
