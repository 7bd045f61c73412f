"""The ledger's world: worked books, tasks by split, rewards, and the contract under other dials.

Nothing here pins the default dials; what is checked holds for all of them.
"""

from __future__ import annotations

import asyncio
import re

import pytest
from env_scripts import act, call, play, texts

from phronesis.envs import registry
from phronesis.envs.check import check, render
from phronesis.envs.digest import split_of
from phronesis.envs.ledger import Books, Dials, LedgerEnv, make
from phronesis.envs.ledger.env import extract
from phronesis.envs.ledger.tasks import books_of, post, question, task
from phronesis.envs.ledger.world import BUSY, MISS, Ledger
from phronesis.errors import ConfigError
from phronesis.records import Episode, EpisodeGroup, Failure, Stop, Task, say

WORKED = Books(
    entries={"jade": "balance 4", "onyx": "add 5", "ruby": "double"},
    renamed={"opal": "jade"},
    busy=("opal", "onyx"),
    asked=("opal", "zinc", "onyx"),
)
"""opal is jade's old name, zinc does not exist: 4, nothing, and 5 more make 9, of which the book keeps 2."""


def worked(books=WORKED):
    payload = {
        "entries": books.entries, "renamed": books.renamed, "busy": list(books.busy), "asked": list(books.asked),
        "answer": books.answer,
    }  # fmt: skip
    return Task(id="w", env="ledger", messages=(say("user", question(books.asked)),), payload=payload)


def lookup(name, n=0):
    return act(call("lookup", {"name": name}, n=n))


def test_worked_books():
    assert WORKED.answer == 2
    assert question(WORKED.asked) == 'Start with "opal", then post "zinc" and "onyx". Give the check digit.'
    assert question(WORKED.asked[:2]) == 'Start with "opal", then post "zinc". Give the check digit.'
    ledger = Ledger(WORKED)
    said = [ledger.lookup(n) for n in ("opal", "opal", "jade", "jade", "zinc", "onyx", "onyx", "ruby", "opal")]
    assert said == [
        BUSY, 'renamed to "jade"', "balance 4", "balance 4", MISS, BUSY, "add 5", "double", 'renamed to "jade"'
    ]  # fmt: skip
    assert ledger.calls == 9 and ledger.next_name is None


@pytest.mark.parametrize(
    ("total", "entry", "after"),
    [(0, "balance 6", 6), (3, "add 2", 5), (6, "add 2", 1), (3, "double", 6), (6, "double", 5), (6, MISS, 6), (6, None, 6)],
)
def test_posting_keeps_the_remainder_by_seven(total, entry, after):
    assert post(total, entry) == after


def test_the_order_of_posting_matters():
    """2 + 3 doubled is 10, which leaves 3; 2 doubled + 3 is 7, which leaves 0. A plain sum would not tell them apart."""
    entries = {"jade": "balance 2", "onyx": "add 3", "ruby": "double"}
    told = [
        Books(entries=entries, renamed={}, busy=(), asked=asked).answer
        for asked in (("jade", "onyx", "ruby"), ("jade", "ruby", "onyx"))
    ]
    assert told == [3, 0]


def test_the_oracle_asks_for_what_is_not_settled():
    ledger = Ledger(WORKED)
    walk = []
    while (name := ledger.next_name) is not None:
        walk.append((name, ledger.lookup(name)))
    assert [name for name, _ in walk] == ["opal", "opal", "jade", "zinc", "onyx", "onyx"]


def test_the_state_key_tells_states_apart_and_nothing_else():
    def key(*names, thought=None):
        ledger = Ledger(WORKED)
        for name in names:
            ledger.lookup(name)
        return ledger.key(thought)

    assert key("opal") == key("opal")
    different = [key(), key("opal"), key("opal", "opal"), key("opal", "opal", "jade"), key("zinc"), key("opal", thought="a")]
    assert len(set(different)) == len(different)
    assert key("zinc", "opal", "opal") == key("opal", "zinc", "opal")  # other ways to the same findings and last answer
    assert key("ruby") != key()  # the last answer is part of what the policy knows


def test_an_episode_by_hand():
    spec = make()

    async def run(*actions):
        env = LedgerEnv()
        replies = [await env.reset(worked(), 0)]
        replies += [await env.step(a) for a in actions]
        await env.close()
        return replies

    opening, *replies = asyncio.run(run(lookup("opal"), lookup("opal"), lookup("jade"), say("assistant", "4 + 5 = 9, so 2.")))
    assert [t.name for t in opening.tools] == ["lookup"] and opening.tools[0].parameters["required"] == ["name"]
    assert [texts(r) for r in replies] == [[BUSY], ['renamed to "jade"'], ["balance 4"], []]
    assert (replies[-1].reward, replies[-1].done, replies[-1].metrics) == (1.0, True, {"lookups": 3.0})
    assert asyncio.run(run(say("assistant", "12")))[-1].reward == 0.0
    both = asyncio.run(run(act(call("lookup", {"name": "zinc"}), call("lookup", {"name": "ruby"}, n=1))))[-1]
    assert texts(both) == [MISS, "double"] and not both.done
    wrong = asyncio.run(run(act(call("find", {"name": "zinc"}), call("lookup", {"nmae": "ruby"}, n=1))))[-1]
    assert wrong.errors == ("unknown_tool", "unknown_argument")
    assert spec.secrets == ("entries", "renamed", "busy", "answer")


@pytest.mark.parametrize(
    ("text", "number"),
    [("3 + 4 = 7", 7), ("none", None), ("", None), ("-3", -3), ("12.", 12), ("total 5, left", 5), ("9" * 40, int("9" * 4))],
)
def test_the_answer_is_the_last_number(text, number):
    assert extract(text) == number


def judged(*said, stop=Stop.completed, failure=None):
    episode = play(make(), [], 0)[0].episode
    turns = tuple(play(make(), [m], 0)[0].episode.turns[0] for m in said)
    whole = Episode(id="e", task=worked(), seed=0, turns=turns, stop=stop, failure=failure, opening=episode.opening)
    return asyncio.run(make().rubric.score(EpisodeGroup(id="g", task=worked(), episodes=(whole,))))[0]


def test_the_rubric_reads_the_last_message_alone():
    right = judged(lookup("opal"), say("assistant", "it is 2"))
    assert right.value == 1.0 and right.components[0].answer == "2"
    assert right.components[0].explanation == "answered 2; the total is 2"
    assert judged(say("assistant", "2"), lookup("opal"), stop=Stop.max_turns).value == 0.0
    assert judged(say("assistant", "hm")).components[0].explanation == "no answer; the total is 2"
    assert judged(stop=Stop.context).value == 0.0
    failure = Failure(where="env.step", kind="X", message="")
    assert judged(say("assistant", "2"), stop=Stop.env_fault, failure=failure).value is None


@pytest.fixture(scope="module")
def tasks():
    dials = Dials(min_difficulty=1, max_difficulty=4)
    return {split: [task(dials, split, i) for i in range(2000)] for split in ("train", "heldout")}


def test_no_held_out_problem_occurs_in_training(tasks):
    keys = {split: {t.content_key for t in found} for split, found in tasks.items()}
    assert keys["train"].isdisjoint(keys["heldout"])
    assert {split_of(k) for k in keys["heldout"]} == {"heldout"} and {split_of(k) for k in keys["train"]} == {"train"}
    assert len(keys["train"]) > 1500 and len(keys["heldout"]) > 1000


def test_tasks_are_what_they_say(tasks):
    levels = {1.0: (2, 0), 2.0: (2, 1), 3.0: (3, 0), 4.0: (4, 2)}
    missing = dict.fromkeys(levels, 0)
    for found in tasks["train"] + tasks["heldout"]:
        books = books_of(found)
        assert books.key == found.content_key and books.answer == found.payload["answer"]
        assert (len(books.asked), len(books.renamed)) == levels[found.difficulty]
        assert set(books.renamed) <= set(books.asked) and set(books.renamed.values()) <= set(books.entries)
        assert set(books.renamed).isdisjoint(books.entries) and set(books.asked).isdisjoint(books.renamed.values())
        assert re.findall(r'"(\w+)"', found.messages[0].text) == list(books.asked)
        held = [books.entries.get(books.renamed.get(name, name), MISS) for name in books.asked]
        assert re.fullmatch(r"balance \d|no such account", held[0])
        assert all(re.fullmatch(r"add [12]|double|no such account", entry) for entry in held[1:])
        missing[found.difficulty] += any(books.renamed.get(n, n) not in books.entries for n in books.asked)
    assert missing[1.0] == missing[2.0] == 0 and missing[3.0] > 100 and missing[4.0] > 100
    assert {t.difficulty for t in tasks["train"][:60]} == set(levels)
    assert [t.id for t in tasks["heldout"][:2]] == ["ledger-heldout-0", "ledger-heldout-1"]


def test_no_constant_answer_beats_what_chance_promises():
    """The promise is checked on the tasks of the default dials; four standard errors of room."""
    spec = make()
    answers = [spec.task("heldout", i).payload["answer"] for i in range(3000)]
    most = max(answers.count(digit) for digit in range(7)) / len(answers)
    assert set(answers) == set(range(7))
    assert abs(most - spec.chance_reward) < 4 * (spec.chance_reward / len(answers)) ** 0.5


def test_the_same_index_is_the_same_task(tasks):
    again = Dials(min_difficulty=1, max_difficulty=4)
    assert [task(again, "train", i) for i in range(20)] == tasks["train"][:20]


@pytest.mark.parametrize("dials", [{}, {"min_difficulty": 4, "max_difficulty": 4, "busy": 1.0}, {"busy": 0.0, "max_amount": 6}])
def test_the_contract_holds_under_any_dials(dials):
    report = asyncio.run(check(registry.get("ledger", dials)))
    assert report.ok, render(report)
    assert {f.rule: f.verdict for f in report.findings}["oracle"] == "ok"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"min_difficulty": 0}, "1 <= min_difficulty <= max_difficulty <= 4"),
        ({"min_difficulty": 3, "max_difficulty": 2}, "got 3 and 2"),
        ({"max_amount": 7}, r"max_amount must be in \[1, 6\], got 7"),
        ({"busy": 1.5}, r"busy must be in \[0, 1\], got 1.5"),
        ({"habits": {"retry": "often"}}, "argument 'habits' is {'retry': 'often'}: Expected `float`"),
        ({"habits": {"rtry": 0.5}}, "the habits are retry, follow"),
    ],
)
def test_dials_out_of_range_are_told(args, message):
    with pytest.raises(ConfigError, match=message):
        registry.get("ledger", args)


@pytest.mark.parametrize("name", ["", "'; DROP TABLE account; --", "\x00", "\ud800", "名", "x" * 10_000])
def test_strange_names_are_answered(name):
    """What a policy writes is its own mistake, never a fault of the world."""

    async def run():
        env = LedgerEnv()
        await env.reset(worked(), 0)
        first, second = await env.step(lookup(name)), await env.step(lookup("ruby"))
        await env.close()
        return texts(first), texts(second)

    first, second = asyncio.run(run())
    assert second == ["double"]
    assert first == [MISS] or first[0].startswith("error:")
