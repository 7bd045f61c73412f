"""When a history continues what was sampled, and when it begins anew. Everything is played on `LiveEpisode`, without HTTP.

Pinned: repairs are counted and never change an id; edited, compacted and foreign histories branch; retries supersede what
nobody built upon; turns follow one another in time across helpers.
"""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from shop import CHAT, TOKENIZER, calls, make_book, prove, said, says, text

from phronesis.chat.qwen import QwenFormat
from phronesis.chat.wire.exchange import ChatRequest
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.gateway import GatewayError
from phronesis.gateway.matching import same
from phronesis.records import Component, Message, Stop, TextPart, ToolCall, ToolSpec, say
from phronesis.rollout.limits import Limits, Sampling

TOOL = ToolSpec(name="look_up", description="The price of an item.", parameters={"type": "object", "properties": {}})
ASK, FIG = say("system", "You sell fruit."), say("user", "price of fig")


def result(words, call="call_0_0"):
    return Message(role="tool", content=(TextPart(text=words),), tool_call_id=call, name="look_up")


def request(*messages, tools=(TOOL,), **options):
    return ChatRequest(model="m", messages=messages, tools=tools, **options)


def play(live, *requests):
    """Asks one after the other; what was said, delivered."""

    async def run():
        found = []
        for one in requests:
            one = one(found) if callable(one) else one
            got = await live.ask(one)
            for said_ in got:
                said_.point.delivered = True
            found.append(got[0])
        return found

    return asyncio.run(run())


def episode(*replies, **options):
    return make_book([says(r) if isinstance(r, Message) else r for r in replies], **options).create()


def kinds(live):
    return dict(live.tree.kinds)


BACK = calls(item="fig")


@pytest.mark.parametrize(
    ("back", "repairs"),
    [
        (BACK, ()),
        (replace(BACK, thought=None), ("reasoning",)),
        (replace(BACK, thought=" look it up\n"), ("whitespace",)),
        (replace(BACK, content=(TextPart(text=" "),)), ("whitespace",)),
        (replace(BACK, tool_calls=(ToolCall(id="mine", name="look_up", arguments={"item": "fig"}),)), ("call_id",)),
        (replace(BACK, thought="look up another"), None),
        (replace(BACK, tool_calls=()), None),
        (replace(BACK, content=(TextPart(text="well"),)), None),
        (replace(BACK, tool_calls=(ToolCall(id="call_0_0", name="look_up", arguments={"item": "kiwi"}),)), None),
        (replace(BACK, tool_calls=(ToolCall(id="call_0_0", name="lookup", arguments={"item": "fig"}),)), None),
        (replace(BACK, role="user"), None),
    ],
)
def test_what_comes_back_is_recognised_or_not(back, repairs):
    assert same(BACK, back) == repairs


@pytest.mark.parametrize(
    ("ours", "theirs", "alike"),
    [
        ({"a": 1, "b": [1, {"c": None}]}, {"b": [1.0, {"c": None}], "a": 1.0}, True),
        ({"a": True}, {"a": 1}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ({"a": "1"}, {"a": 1}, False),
    ],
)
def test_arguments_are_compared_as_json(ours, theirs, alike):
    call = ToolCall(id="c", name="f", arguments=ours)
    back = replace(call, arguments=theirs)
    found = same(Message(role="assistant", tool_calls=(call,)), Message(role="assistant", tool_calls=(back,)))
    assert (found == ()) is alike


def test_parts_and_their_joined_text_are_the_same_message():
    parts = Message(role="user", content=(TextPart(text="price "), TextPart(text="of fig")))
    assert same(FIG, parts) == () and same(FIG, say("user", "price of  fig")) is None
    assert same(result("5"), result("5", call="other")) is None


def test_a_repaired_history_extends_with_the_very_ids_that_were_sampled():
    live = episode(calls(item="fig"), said(" It costs 5. "), said("Bye."))
    forgetful = replace(calls(item="fig"), thought=None)
    first, second, third = play(
        live,
        request(ASK, FIG),
        request(ASK, FIG, forgetful, result("5")),
        request(ASK, FIG, forgetful, result("5"), said("It costs 5."), say("user", "thanks")),
    )
    assert kinds(live) == {"opened": 1, "extended": 2}
    assert dict(live.tree.repairs) == {"reasoning": 2, "whitespace": 1}
    assert second.point.prompt[: len(first.point.prompt)] == first.point.prompt
    assert second.point.prompt[len(first.point.prompt) :][: len(first.turn.completion)] == first.turn.completion
    assert "look it up" in text(third.point.prompt) and " It costs 5. " in text(third.point.prompt)
    live.finish()
    assert [t.parent for t in prove(live.record()).turns] == [None, 0, 1]


def test_an_edited_answer_forks_at_the_last_message_that_is_still_ours():
    live = episode(calls(item="fig"), said("It costs 5."), said("Sorry."))
    mine = (ASK, FIG, calls(item="fig"), result("5"))
    *_, third = play(live, request(ASK, FIG), request(*mine), request(*mine, said("It costs 6."), say("user", "are you sure?")))
    assert kinds(live) == {"opened": 1, "extended": 1, "rewritten": 1}
    assert "It costs 6." in text(third.turn.context)
    live.finish()
    record = prove(live.record())
    assert [t.parent for t in record.turns] == [None, 0, 0]
    assert [t.follows for t in record.turns] == [-1, 0, 0]


@pytest.mark.parametrize(
    "messages",
    [
        (say("system", "You sell vegetables."), FIG, calls(item="fig"), result("5")),
        (ASK, say("user", "They asked for a fig; it costs 5. Say so.")),
        (ASK, FIG, calls(item="kiwi"), result("5")),
    ],
    ids=["system prompt", "compacted", "first answer edited"],
)
def test_a_history_that_no_branch_explains_begins_a_new_root(messages):
    live = episode(calls(item="fig"), said("It costs 5."), said("So be it."))
    play(live, request(ASK, FIG), request(*messages), request(ASK, FIG, calls(item="fig"), result("5")))
    assert kinds(live) == {"opened": 1, "rerooted": 1, "extended": 1}
    live.finish()
    record = prove(live.record())
    assert [t.parent for t in record.turns] == [None, None, 0]


def test_other_tools_begin_a_new_root():
    live = episode(calls(item="fig"), said("Hm."))
    play(live, request(ASK, FIG), request(ASK, FIG, calls(item="fig"), result("5"), tools=()))
    assert kinds(live) == {"opened": 1, "rerooted": 1}


def test_a_helper_with_a_conversation_of_its_own_stands_between_in_time():
    """The agent asks a helper and comes back to its own conversation; ids extend the own one, time goes through the helper."""
    live = episode(calls(item="fig"), said("The helper looks."), said("It is five."), said("It costs 5."))
    helper = (say("system", "You help."), say("user", "fig?"))
    play(
        live,
        request(ASK, FIG),
        request(*helper, tools=()),
        request(*helper, said("The helper looks."), say("user", "and?"), tools=()),
        request(ASK, FIG, calls(item="fig"), result("5")),
    )
    live.finish()
    record = prove(live.record())
    assert [t.parent for t in record.turns] == [None, None, 1, 0]
    assert [t.follows for t in record.turns] == [-1, 0, 1, 2]


def test_dropped_thoughts_restart_at_a_root_where_the_format_says_so():
    strip = QwenFormat(TOKENIZER, "strip")
    policy = ScriptedPolicy([says(said("Yes.", thought="think")), says(said("No."))], vocab_size=len(TOKENIZER))
    book = make_book(policy=policy)
    book.chat = strip
    live = book.create()
    play(live, request(FIG, tools=()), request(FIG, said("Yes.", thought="think"), say("user", "sure?"), tools=()))
    assert kinds(live) == {"opened": 1, "restarted": 1}
    live.finish()
    record = prove(live.record())
    assert [(t.parent, t.follows) for t in record.turns] == [(None, -1), (None, 0)]
    assert "think" not in text(record.turns[1].context)


def test_asked_again_the_unused_answer_is_left_out():
    live = episode(said("One."), said("Two."), said("Bye."))
    play(live, request(FIG), request(FIG), request(FIG, said("Two."), say("user", "more")))
    assert kinds(live) == {"opened": 1, "forked": 1, "extended": 1}
    live.finish()
    record = prove(live.record())
    assert live.counts["superseded"] == 1
    assert [t.action.text for t in record.turns] == ["Two.", "Bye."]
    assert [(t.parent, t.follows) for t in record.turns] == [(None, -1), (0, 0)]


def test_an_answer_with_a_reward_of_its_own_is_kept():
    live = episode(said("One."), said("Two."))
    play(live, request(FIG), request(FIG))
    live.reward(Component(name="s", score=1.0, turn=0))
    live.finish()
    assert [t.action.text for t in prove(live.record()).turns] == ["One.", "Two."]


def test_several_messages_are_siblings_and_all_stay():
    live = make_book(lambda prompt: says(said("It costs 5."))).create()

    async def run():
        found = await live.ask(request(FIG, n=3))
        for one in found:
            one.point.delivered = True
        return found

    found = asyncio.run(run())
    assert len({one.turn.seed for one in found}) == 3
    live.finish()
    record = prove(live.record())
    assert [t.parent for t in record.turns] == [None] * 3 and [t.follows for t in record.turns] == [-1] * 3


def test_what_was_never_delivered_nor_used_is_left_out():
    live = episode(said("Lost."), said("Found."))

    async def run():
        await live.ask(request(FIG))
        (found,) = await live.ask(request(say("user", "other")))
        found.point.delivered = True

    asyncio.run(run())
    live.finish()
    record = prove(live.record())
    assert [t.action.text for t in record.turns] == ["Found."] and live.counts["undelivered"] == 1


def test_concurrent_requests_of_one_episode_keep_their_own_lines():
    """Two helpers at once: both extend the first turn's conversation by their own; ids never mix."""

    def answer(prompt):
        last = text(prompt).split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]
        return says(said(f"on {last}"))

    live = make_book(answer, delay=0.01).create()

    async def line(name, n):
        messages = [say("user", f"{name}0")]
        for k in range(n):
            (one,) = await live.ask(request(*messages, tools=()))
            one.point.delivered = True
            assert one.point.sent.text == f"on {name}{k}"
            messages += [one.point.sent, say("user", f"{name}{k + 1}")]

    async def run():
        await asyncio.gather(line("fig", 4), line("kiwi", 4), line("plum", 3))

    asyncio.run(run())
    live.finish()
    record = prove(live.record())
    assert len(record.leaves) == 3 and len(record.turns) == 11
    for leaf in record.leaves:
        names = {n for n in ("fig", "kiwi", "plum") if any(n in record.turns[k].action.text for k in record.path(leaf))}
        assert len(names) == 1


def test_limits_refuse_and_are_why_the_episode_ended():
    live = episode(said("One."), said("Two."), limits=Limits(max_turns=1, context=200))
    play(live, request(FIG))
    with pytest.raises(GatewayError, match=r"has used 1 of limits.max_turns = 1") as refused:
        play(live, request(FIG))
    assert (refused.value.status, refused.value.code) == (400, "max_turns")
    live.finish()
    assert live.record().stop is Stop.max_turns
    long = episode(said("One."), limits=Limits(context=12))
    with pytest.raises(GatewayError, match="the context holds 12"):
        play(long, request(FIG))
    long.finish()
    assert long.record().stop is Stop.context


def test_sampling_is_the_clients_unless_the_run_has_its_own():
    free, bound = make_book(lambda p: says(said("x"))), make_book(lambda p: says(said("x")), sampling=Sampling(temperature=0.7))
    for book, temperature in ((free, 0.2), (bound, 0.7)):
        live = book.create(seed=5)
        play(live, request(FIG, temperature=0.2, max_tokens=9, seed=1))
        params = book.policy.params[0]
        assert (params.temperature, params.max_tokens) == (temperature, 9)
        assert live.turns[0].temperature == temperature
        assert live.counts["overridden"] == (book is bound)
    play(free.create(seed=5), request(FIG), request(FIG))
    play(free.create(seed=5), request(FIG))
    first, second, again = (p.seed for p in free.policy.params[1:])
    assert first == again != second


def test_stop_texts_are_cut_from_what_is_sent_and_still_recognised():
    live = episode(said("It costs 5. Stop here"), said("Bye."))
    play(
        live,
        request(FIG, stop=(" Stop",), tools=()),
        lambda found: request(FIG, found[0].point.sent, say("user", "thanks"), tools=()),
    )
    assert live.points[0].sent.text == "It costs 5." and kinds(live) == {"opened": 1, "extended": 1}


def test_a_demanded_call_begins_as_calls_do_and_is_not_trained_there():
    seen = []

    def answer(prompt):
        rest = CHAT.render(Message(role="assistant", tool_calls=(ToolCall(id="", name="look_up", arguments={"item": "fig"}),)))
        return rest[len(seen[-1]) :] if seen else rest

    book = make_book(answer)
    live = book.create()

    policy = book.policy
    original = policy.sample

    async def sample(prompt, params):
        seen.append(params.forced)
        return await original(prompt, params)

    policy.sample = sample
    (one,) = play(live, request(FIG, tool_mode="required", tool_name="look_up"))
    assert one.point.sent.tool_calls[0].arguments == {"item": "fig"}
    forced = len(seen[0])
    assert '"name": "look_up", "arguments":' in text(seen[0])
    assert one.turn.sampled == (False,) * forced + (True,) * (len(one.turn.completion) - forced)
    with pytest.raises(GatewayError, match="demands a call of 'sell'"):
        play(live, request(FIG, tool_mode="required", tool_name="sell"))


@settings(max_examples=60)
@given(st.data())
def test_any_walk_over_an_episode_stays_token_exact(data):
    """Clients that extend, fork, edit, forget and retry in any order: every record passes the proof."""

    def answer(prompt):
        n = len(prompt)
        return says(calls(item="fig", thought=None if n % 3 else "hm") if n % 2 else said(f"n {n}"))

    book = make_book(answer, limits=Limits(max_turns=40))
    live = book.create()
    histories = [(FIG,)]

    async def run():
        for _ in range(data.draw(st.integers(1, 8))):
            history = data.draw(st.sampled_from(histories))
            (one,) = await live.ask(request(*history))
            one.point.delivered = data.draw(st.booleans())
            back = one.point.sent
            change = data.draw(st.sampled_from(["as it is", "forget", "edit"]))
            if change == "forget":
                back = replace(back, thought=None)
            elif change == "edit":
                back = said("edited")
            more = say("user", f"more {len(histories) % 2}")
            histories.append((*history, back, *(result("5", c.id) for c in back.tool_calls), more))

    asyncio.run(run())
    live.finish()
    record = prove(live.record())
    for k, turn in enumerate(record.turns):
        assert turn.parent is None or turn.parent < k
        assert turn.follows < k
        assert turn.completion == answer(record.prompt(k))
    assert len(record.turns) + live.counts["undelivered"] + live.counts["superseded"] >= len(live.turns)
