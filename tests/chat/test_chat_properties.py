"""Random conversations: what is pinned is equality with the tokenizer's own template, id by id, and parse after render."""

import msgspec
import pytest
from chat_cases import TOOL, assistants, conversations, play, result, speak, template_ids, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from phronesis.chat import Llama3Format, QwenFormat, format_for
from phronesis.chat.template import Template
from phronesis.records import Message, say

many = settings(deadline=None, max_examples=50)


@pytest.fixture(scope="session", params=["preserve", "until_user", "strip"])
def retention(request):
    return request.param


@pytest.fixture(scope="session")
def formats(qwen, llama3, spelt):
    return {
        (kind, r): (t, format_for(t, r))
        for kind, t in (("qwen", qwen), ("llama3", llama3), ("spelt", spelt))
        for r in ("preserve", "until_user", "strip")
    }


@pytest.mark.parametrize("kind", ["qwen", "llama3", "spelt"])
@many
@given(message=assistants())
def test_parse_reads_what_render_wrote(formats, kind, message):
    _, chat = formats[kind, "preserve"]
    ids = chat.render(message)
    parsed = chat.parse(ids)
    assert parsed.message == message
    assert parsed.error is None
    assert ids[-1] == chat.stop_ids[0]


@pytest.mark.parametrize("kind", ["qwen", "llama3"])
@many
@given(messages=conversations(), tools=st.booleans())
def test_open_is_the_template(formats, kind, retention, messages, tools):
    tokenizer, chat = formats[kind, retention]
    offered = (TOOL,) if tools else ()
    assert chat.open(messages, offered) == template_ids(tokenizer, messages, offered, thoughts=retention)


@pytest.mark.parametrize("kind", ["qwen", "llama3"])
@many
@given(messages=conversations(), tools=st.booleans())
def test_playing_turn_by_turn_gives_the_template(formats, kind, retention, messages, tools):
    tokenizer, chat = formats[kind, retention]
    offered = (TOOL,) if tools else ()
    assert play(chat, messages, offered) == template_ids(tokenizer, messages, offered, thoughts=retention)


@many
@given(messages=conversations())
def test_template_dropping_thoughts_is_followed_by_until_user(dropping, messages):
    # The template trims line breaks around a thought and drops empty ones; both are the template's own, not ours.
    plain = [m if m.thought is None else speak(m.text, m.thought.strip("\n") or "so", m.tool_calls) for m in messages]
    assert play(QwenFormat(dropping, "until_user"), plain, (TOOL,)) == template_ids(dropping, plain, (TOOL,))


@st.composite
def _completions(draw, size=600):
    tags = st.integers(0, 12) | st.integers(470, 485)
    return tuple(draw(st.lists(tags | st.integers(0, size), max_size=40)))


@pytest.mark.parametrize("kind", ["qwen", "llama3", "spelt"])
@settings(deadline=None, max_examples=150)
@given(completion=_completions(), turn=st.integers(0, 3))
def test_any_ids_parse(formats, kind, completion, turn):
    _, chat = formats[kind, "preserve"]
    parsed = chat.parse(completion, turn)
    at = 0
    for span in parsed.spans:
        assert span.start == at < span.end
        at = span.end
    assert at == len(completion)
    assert [c.id for c in parsed.message.tool_calls] == [f"call_{turn}_{n}" for n in range(len(parsed.message.tool_calls))]
    assert msgspec.json.decode(msgspec.json.encode(parsed.message), type=Message) == parsed.message
    for call in parsed.message.tool_calls:
        assert (call.error is None) == (call.raw is None)
        assert call.error is None or (parsed.error is not None and call.error in parsed.error)


@pytest.mark.parametrize("kind", ["qwen", "llama3", "spelt"])
@many
@given(completion=_completions(), answer=texts)
def test_sampled_ids_are_followed_and_never_changed(formats, kind, retention, completion, answer):
    _, chat = formats[kind, retention]
    history = [say("user", "price?"), chat.parse(completion).message]
    extension = chat.extend(history, (), completion, [result(answer)])
    if extension.restart:
        assert retention == "strip"
        assert history[-1].thought is not None
        assert extension.ids == chat.open([*history, result(answer)])
        return
    # The same answer after a completion that ended properly, without what closes an unfinished one.
    ended = chat.extend([say("user", "x"), speak("y")], (), chat.render(speak("y")), [result(answer)]).ids
    assert extension.ids[len(extension.ids) - len(ended) :] == ended
    closing = extension.ids[: len(extension.ids) - len(ended)]
    assert bool(closing) == (not completion or completion[-1] not in chat._end_ids)
    assert not closing or closing[-1] == chat.stop_ids[0]


@many
@given(
    text=st.lists(texts | st.sampled_from(["<think>", "</think>", "<|im_end|>", "<tool_call>", "<|im", "<"]), max_size=6).map(
        "".join
    )
)
def test_cutting_at_tags_gives_the_tokenizers_ids(qwen, text):
    template = Template(qwen)
    assert template._cut is not None
    assert template.encode(text) == tuple(qwen.encode(text, add_special_tokens=False))


@many
@given(ids=st.lists(st.integers(0, 500), max_size=30))
def test_decode_is_the_tokenizers(qwen, ids):
    assert Template(qwen).decode(ids) == qwen.decode(ids, skip_special_tokens=False)


@many
@given(message=assistants())
def test_tags_spelt_with_many_ids_read_the_same(formats, message):
    (_, whole), (_, spelt) = formats["qwen", "preserve"], formats["spelt", "preserve"]
    assert len(spelt.render(message)) >= len(whole.render(message))
    assert spelt.parse(spelt.render(message)).message == whole.parse(whole.render(message)).message


def test_families_are_recognised(qwen, llama3, spelt):
    assert isinstance(format_for(qwen), QwenFormat)
    assert isinstance(format_for(spelt), QwenFormat)
    assert isinstance(format_for(llama3), Llama3Format)
