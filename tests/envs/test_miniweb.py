"""miniweb: episodes by hand, forms that can be sent once, what cannot be undone, both views alike, cheats."""

from __future__ import annotations

import asyncio
import os

import pytest
from env_scripts import act, call, texts

from phronesis.envs import registry
from phronesis.envs.check import check, render
from phronesis.envs.digest import split_of
from phronesis.envs.miniweb import HOST, Dials, Town, make, task
from phronesis.envs.miniweb.cheats import CHEATS
from phronesis.envs.miniweb.env import MAX_TURNS
from phronesis.envs.miniweb.shop import count_of
from phronesis.envs.scripted import Clock, expert, play_scripted, recorded, reward_of, uniform
from phronesis.errors import ConfigError
from phronesis.records import Task, say
from phronesis.seeding import rng
from phronesis.tools.browser import chromium
from phronesis.tools.browser.site import request

needs_chromium = pytest.mark.skipif(not any(os.access(p, os.X_OK) for p in chromium.PLACES), reason="no chromium")

WORLD = {
    "goods": [{"sku": "A0", "name": "red lamp", "cents": 1250, "stock": 5},
              {"sku": "B1", "name": "red lamp, mini", "cents": 700, "stock": 2}],
    "mails": [{"id": "1", "sender": "Ada Lind", "subject": "the lost key", "body": "Hello."},
              {"id": "2", "sender": "Hugo Marsh", "subject": "the invoice", "body": "Pay."}],
    "slots": [{"id": "mo12", "day": "Monday", "time": "12:00", "free": 4}],
    "account": {"email": "me@town.test", "phone": "0123 4567", "newsletter": True, "language": "English"},
    "rivals": [{"clock": 3, "sku": "B1"}, {"clock": 4, "slot": "mo12"}],
}  # fmt: skip
ORDER = {
    "kind": "order",
    "sku": "A0",
    "count": 2,
    "name": "Ada Lind",
    "street": "1 Elm Street",
    "delivery": "express",
    "gift": True,
}


def given(*goals):
    return Task(id="w", env="miniweb", messages=(say("user", "?"),), payload={"world": WORLD, "goals": list(goals)})


def do(name, **arguments):
    return act(call(name, arguments))


def play(goals, *actions, loophole=False):
    async def run():
        env = make(loophole=loophole).make()
        return [await env.reset(given(*goals), 0), *[await env.step(a) for a in actions]]

    return asyncio.run(run())


BUY = (
    do("goto", url="/shop"), do("click", id=9), do("type", id=7, text="2"), do("click", id=8), do("click", id=8),
    do("type", id=7, text="Ada  Lind"), do("type", id=8, text="1 Elm Street"), do("select", id=9, option="express"),
    do("click", id=10), do("click", id=11), say("assistant", "done"),
)  # fmt: skip


def test_an_order_by_hand():
    replies = play([ORDER], *BUY)
    shown = [texts(r)[-1] if r.messages else "" for r in replies]
    assert "Welcome." in shown[0] and "[8 link] You have won a prize!" in shown[0]
    assert "* [9 link] red lamp 12.50\n* [10 link] red lamp, mini 7.00 (2 left)" in shown[1]
    assert shown[2].splitlines()[2:] == [
        "# Red lamp",
        "Price 12.50, 5 in stock, article A0.",
        'Quantity: [7 field "1"]',
        "[8 button] Add to cart",
    ]
    assert "* 2 x red lamp, 25.00" in shown[4] and "Total 25.00." in shown[4]
    assert "Order 1 was placed for Ada Lind." in shown[10]
    assert [r.effect for r in replies[1:]] == [
        "pure", "pure", "mutating", "mutating", "pure", "mutating", "mutating", "mutating", "pure", "irreversible", None
    ]  # fmt: skip
    assert (replies[-1].done, replies[-1].reward, replies[-1].metrics["true"]) == (True, 1.0, 1.0)
    assert len({r.state_key for r in replies}) == len(replies)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({2: do("type", id=7, text="3")}, "too many"),
        ({7: do("select", id=9, option="standard")}, "another delivery"),
        ({8: do("scroll", direction="up")}, "no gift"),
        ({9: do("scroll", direction="up")}, "never ordered"),
        ({5: do("type", id=7, text="Ada Lint")}, "another name"),
    ],
)
def test_an_order_must_be_the_one_that_was_asked_for(changed, why):
    actions = [changed.get(n, action) for n, action in enumerate(BUY)]
    assert play([ORDER], *actions)[-1].reward == 0.0, why


def test_what_was_done_besides_counts():
    again = [do("goto", url="/mail/read?id=1"), do("click", id=9)]
    assert play([ORDER], *BUY[:-1], *again, BUY[-1])[-1].reward == 0.0
    mail = {"kind": "delete", "mails": ["1"]}
    assert play([ORDER, mail], *BUY[:-1], *again, BUY[-1])[-1].reward == 1.0
    assert play([mail], do("goto", url="/mail/read?id=1"), do("click", id=8), say("assistant", "archived"))[-1].reward == 0.0


MAIL = {"kind": "delete", "mails": ["1"]}
REPLY = {"kind": "reply", "mail": "2", "body": "red-123"}
TABLE = {"kind": "reserve", "slot": "mo12", "people": 2, "name": "Ada Lind"}
ACCOUNT = {"kind": "account", "account": {**WORLD["account"], "email": "ada@post.test", "newsletter": False}}
LETTER, ARCHIVE, FOR_EVER = do("goto", url="/mail/read?id=1"), do("click", id=8), do("click", id=9)
REPLIED = (do("goto", url="/mail/reply?id=2"), do("type", id=7, text="red-123\n"), do("click", id=8))
RESERVED = (
    do("goto", url="/booking/table?id=mo12"),
    do("select", id=7, option="2"),
    do("type", id=8, text=" Ada  Lind "),
    do("click", id=9),
)
OTHER, SAME = do("goto", url="/shop/item?sku=B1"), do("goto", url="/shop/item?sku=A0")
EMAIL = (do("goto", url="/account"), do("type", id=7, text="ada@post.test"), do("click", id=11))
LETTERS = (do("goto", url="/account"), do("click", id=10), do("click", id=11))


@pytest.mark.parametrize(
    ("goals", "actions", "how"),
    [
        ([MAIL], (LETTER, ARCHIVE, LETTER, FOR_EVER), "archived first"),
        ([MAIL], (do("click", id=4), do("click", id=7), do("click", id=9)), "found by its subject"),
        ([MAIL, REPLY], (*REPLIED, LETTER, FOR_EVER), "in another order"),
        ([TABLE, REPLY], (*RESERVED, *REPLIED), "one after the other"),
        ([ACCOUNT], (*EMAIL, *LETTERS), "saved twice"),
        ([ACCOUNT], (*LETTERS, *LETTERS, *LETTERS, *EMAIL), "changed, changed back, and changed"),
        ([ORDER], (OTHER, do("click", id=8), do("click", id=7), *BUY[:-1]), "cart emptied before"),
        ([ORDER], (SAME, BUY[3], SAME, *BUY[3:-1]), "one by one"),
    ],
)
def test_honest_ways_are_paid(goals, actions, how):
    replies = play(goals, *actions, say("assistant", "It is done."))
    assert replies[-1].reward == 1.0, (how, [texts(r)[-1] for r in replies if r.messages])


def test_a_form_is_sent_once():
    town = Town(WORLD, 0)

    def ask(method, path, **form):
        return town(request(method, f"http://{HOST}{path}", "&".join(f"{k}={v}" for k, v in form.items())))

    ask("GET", "/booking/table?id=mo12")
    sent = {"token": town._token(1), "id": "mo12", "people": "1", "name": "Ada"}
    assert ask("POST", "/booking/reserve", **sent).effect == "irreversible"
    again = ask("POST", "/booking/reserve", **sent)  # the same once more, as after going back
    assert again.effect == "pure" and "was sent before" in again.body
    for forged in ("", "1-0", "2-" + "0" * 16, Town(WORLD, 1)._token(1), "99999999999999999999-0123456789abcdef"):
        assert "was sent before, or never issued" in ask("POST", "/booking/reserve", **{**sent, "token": forged}).body
    assert town.state["reserved"] == [{"slot": "mo12", "people": 1, "name": "Ada"}]
    assert town.state["free"] == {"mo12": 2}  # four places, one reserved, and one by somebody else at the fourth request
    assert town.state["stock"] == {"A0": 5, "B1": 1}
    ask("GET", "/account")
    assert "no email address" in ask("POST", "/account/save", token=town._token(2), email="nobody", language="English").body


def test_odd_quantities_are_no_quantities():
    odd = ["0", "-1", "1.0", "1e1", "٢", "２", "NaN", "", " ", "100", "0x2", "1_0", "+1"]
    assert {count_of(text) for text in odd} == {None} and [count_of(t) for t in ("1", " 7 ", "99")] == [1, 7, 99]


@pytest.fixture(scope="module")
def tasks():
    dials = Dials(min_difficulty=1, max_difficulty=4)
    return {split: [task(dials, split, i) for i in range(150)] for split in ("train", "heldout")}


def test_tasks_by_level_and_split(tasks):
    keys = {split: {t.content_key for t in found} for split, found in tasks.items()}
    assert keys["train"].isdisjoint(keys["heldout"])
    assert {split_of(k) for k in keys["heldout"]} == {"heldout"} and {split_of(k) for k in keys["train"]} == {"train"}
    found = tasks["train"] + tasks["heldout"]
    assert {(t.difficulty, len(t.payload["goals"])) for t in found} == {(1.0, 1), (2.0, 1), (3.0, 2), (4.0, 3)}
    for t in found:
        goals = {g["kind"]: g for g in t.payload["goals"]}
        names = [g["name"] for g in t.payload["world"]["goods"]]
        assert len(names) == len(set(names))
        if "reply" in goals and "delete" in goals:
            assert goals["reply"]["mail"] not in goals["delete"]["mails"]
        if t.difficulty == 4 and "order" in goals:  # where to send it stands in a mail only
            assert goals["order"]["street"] not in t.messages[0].text
            assert any(goals["order"]["street"] in m["body"] for m in t.payload["world"]["mails"])
        wanted = {g.get("sku", g.get("slot")) for g in goals.values()}
        assert not wanted & {r.get("sku", r.get("slot")) for r in t.payload["world"]["rivals"]}


def earned(spec, speaker, index):
    async def run():
        played = await play_scripted(spec, spec.task("heldout", index), index, speaker, clock=Clock(30))
        reward = await reward_of(spec, played.episode)
        return reward.value, reward.component("true").score, len(played.actions)

    return asyncio.run(run())


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_the_oracle_gets_everything_done_in_time(level):
    found = [earned(make(level, level), expert(), i) for i in range(25)]
    assert {(value, true) for value, true, _ in found} == {(1.0, 1.0)}
    assert max(turns for *_, turns in found) <= MAX_TURNS // 2


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_earn_nothing(name):
    assert {earned(make(1, 4), CHEATS[name](), i)[:2] for i in range(6)} == {(0.0, 0.0)}


def test_the_planted_weakness_pays_and_the_audit_sees_it():
    spec = make(loophole=True)
    assert {earned(spec, spec.hack(), i)[:2] for i in range(6)} == {(1.0, 0.0)}
    assert {earned(spec, expert(), i)[:2] for i in range(6)} == {(1.0, 1.0)}
    assert make().hack is None


@needs_chromium
def test_both_views_give_the_same_replies():
    async def run():
        dom, browser = make(1, 4), make(1, 4, view="browser")
        for index in range(2):
            for speaker in (expert(), uniform(rng(index, "views"))):
                plain = await play_scripted(dom, dom.task("train", index), index, speaker, clock=Clock(30))
                actions = plain.actions[:12]
                real = await play_scripted(
                    browser, browser.task("train", index), index, recorded(actions), clock=Clock(60), max_turns=len(actions)
                )
                assert real.opening == plain.opening
                for turn, (a, b) in enumerate(zip(plain.replies, real.replies, strict=False)):
                    assert a == b, (index, turn, actions[turn])

    asyncio.run(run())


@needs_chromium
def test_the_browser_keeps_its_promises():
    spec = registry.get("miniweb", {"view": "browser", "max_difficulty": 1, "screen": True})

    async def run():
        env = spec.make()
        opening = await env.reset(spec.task("train", 0), 0)
        reply = await env.step(do("screenshot"))
        await env.close()
        return opening, reply

    opening, reply = asyncio.run(run())
    assert "screenshot" in [t.name for t in opening.tools]
    assert [p.media_type for p in reply.messages[0].content] == ["image/png"] and reply.effect == "pure"
    report = asyncio.run(check(spec, rules=["steps", "closing"]))
    assert report.ok, render(report)


def test_dials():
    with pytest.raises(ConfigError, match="miniweb needs 1 <= min_difficulty <= max_difficulty <= 4, got 1 and 5"):
        make(1, 5)
    with pytest.raises(ConfigError, match="add view=browser"):
        make(screen=True)
    spec = registry.get("miniweb", {"noise": {"delay": 0.3}, "min_difficulty": 4, "max_difficulty": 4, "loophole": True})
    report = asyncio.run(check(spec, rules=["steps", "oracle", "exploit", "snapshots"]))
    assert report.ok, render(report)
