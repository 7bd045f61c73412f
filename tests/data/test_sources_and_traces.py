"""Task sources and traces for supervised learning."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.chat.qwen import QwenFormat
from phronesis.data.sources import SpecTasks
from phronesis.data.traces import encode, encode_all
from phronesis.env import TaskSource
from phronesis.envs import probes
from phronesis.envs.ledger import make
from phronesis.errors import CheckpointError, ConfigError, UnknownName
from phronesis.models.tokenizer import train_tokenizer
from phronesis.records import Conversation, EpisodeGroup, Message, TextPart, say

COPY = probes.copy(letters=5)
TOKENIZER = train_tokenizer(["total 5, left two", "say it"] * 2, 300)


def ids(source, n):
    return [t.id for t in source.draw(n)]


def test_a_finite_split_is_shuffled_anew_every_epoch():
    source = SpecTasks(COPY, "train", 3)
    assert isinstance(source, TaskSource)
    epochs = [ids(source, 5) for _ in range(20)]
    assert all(sorted(e) == sorted(epochs[0]) for e in epochs) and len({tuple(e) for e in epochs}) > 5
    assert epochs == [ids(again, 5) for again in [SpecTasks(COPY, "train", 3)] for _ in range(20)]
    assert ids(SpecTasks(COPY, "train", 3), 40) != ids(SpecTasks(COPY, "train", 4), 40)
    assert ids(SpecTasks(COPY, "heldout", 3), 5) != epochs[0]


def test_an_unlimited_split_is_read_in_order():
    assert ids(SpecTasks(make(), "heldout", 9), 3) == [f"ledger-heldout-{i}" for i in range(3)]


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 30))
def test_a_saved_source_goes_on_where_it_stood(draws, more):
    whole = SpecTasks(COPY, "train", 1)
    for n in draws:
        whole.draw(n)
    resumed = SpecTasks(COPY, "train", 1)
    resumed.restore(whole.state())
    assert ids(resumed, more) == ids(whole, more)
    seen = SpecTasks(COPY, "train", 1)
    counts = Counter(ids(seen, sum(draws) + more))
    assert not counts or max(counts.values()) - min(counts.get(t, 0) for t in ids(SpecTasks(COPY, "train", 1), 5)) <= 1


def test_reporting_changes_no_order():
    source, other = SpecTasks(COPY, "train", 1), SpecTasks(COPY, "train", 1)
    task = source.draw(1)[0]
    source.report(task, EpisodeGroup(id="g", task=task, episodes=()))
    other.draw(1)
    assert ids(source, 7) == ids(other, 7)


def test_what_a_source_refuses():
    with pytest.raises(UnknownName, match=r"unknown split of environment 'probe-copy' 'heldotu'; did you mean 'heldout'\?"):
        SpecTasks(COPY, "heldotu", 0)
    empty = probes.replace(COPY, sizes={"train": 0})
    with pytest.raises(ConfigError, match="split 'train' of environment 'probe-copy' has no tasks"):
        SpecTasks(empty, "train", 0)
    source = SpecTasks(COPY, "train", 0)
    for state in ({}, {"cursor": "3", "split": "train"}, {"cursor": 3, "split": "heldout"}):
        with pytest.raises(CheckpointError, match="is no state of the 'train' tasks of 'probe-copy'"):
            source.restore(state)


def thinking(thought, text):
    return Message(role="assistant", thought=thought, content=(TextPart(text=text),))


TALK = Conversation(
    opening=(say("system", "count"), say("user", "go")),
    exchanges=(
        (thinking("one", "a"), (say("user", "and"),)),
        (thinking(None, "b"), (say("user", "more"), say("user", "still"))),
        (thinking("two", "c"), ()),
    ),
)


def spoken(trace):
    return TOKENIZER.decode([i for i, m in zip(trace.ids, trace.mask, strict=True) if m])


def test_a_conversation_is_one_trace_with_the_assistant_marked():
    chat = QwenFormat(TOKENIZER)
    (trace,) = encode(TALK, chat)
    history = [*TALK.opening, TALK.exchanges[0][0], *TALK.exchanges[0][1], TALK.exchanges[1][0], *TALK.exchanges[1][1]]
    assert trace.ids == chat.open(history) + chat.render(TALK.exchanges[2][0])
    assert spoken(trace) == (
        "<think>\none\n</think>\n\na<|im_end|>" "b<|im_end|>" "<think>\ntwo\n</think>\n\nc<|im_end|>"
    )  # fmt: skip
    assert trace.mask[0] is False and len(trace.ids) == len(trace.mask)


def test_dropped_thoughts_begin_a_new_trace():
    traces = encode(TALK, QwenFormat(TOKENIZER, "strip"))
    assert [spoken(t) for t in traces] == [
        "<think>\none\n</think>\n\na<|im_end|>",
        "b<|im_end|><think>\ntwo\n</think>\n\nc<|im_end|>",
    ]
    assert "one" in TOKENIZER.decode(traces[0].ids) and "one" not in TOKENIZER.decode(traces[1].ids)


def test_what_is_only_heard_teaches_nothing():
    chat = QwenFormat(TOKENIZER)
    assert encode(Conversation(opening=TALK.opening, exchanges=()), chat) == []
    assert len(encode_all([TALK, TALK], chat)) == 2
    # an answer after the last message is context without a target; it does no harm
    (trace,) = encode(Conversation(opening=TALK.opening, exchanges=TALK.exchanges[:1]), chat)
    assert spoken(trace) == "<think>\none\n</think>\n\na<|im_end|>" and trace.mask[-1] is False
