"""The generic format: extensions by difference, and refusals that say where."""

import pytest
from chat_cases import (
    BREAK_UNLESS_LAST,
    CHATML,
    COUNTING,
    LLAMA31_LIKE,
    NO_LINE_BREAK,
    SHORTENING,
    TOOL,
    UNENDED,
    call,
    conversations,
    play,
    result,
    speak,
    template_ids,
)  # fmt: skip
from hypothesis import given, settings

from phronesis.chat import GenericFormat, QwenFormat, format_for
from phronesis.errors import TemplateError
from phronesis.records import say

TALK = [
    say("system", "be brief"),
    say("user", "price of fig?"),
    speak("5"),
    say("user", "and kiwi?"),
    speak("6"),
    say("user", "ok"),
]


@pytest.fixture(scope="session")
def generic(qwen):
    return GenericFormat(qwen)


@settings(max_examples=50, deadline=None)
@given(messages=conversations())
def test_agrees_with_the_family(qwen, generic, messages):
    """On a template both understand, the difference gives what the family writes."""
    assert play(generic, messages, [TOOL]) == play(QwenFormat(qwen), messages, [TOOL]) == template_ids(qwen, messages, [TOOL])


@pytest.mark.parametrize("template", [CHATML, NO_LINE_BREAK])
def test_plain_templates(qwen, retemplate, template):
    tokenizer = retemplate(qwen, template)
    chat = format_for(tokenizer)
    assert isinstance(chat, GenericFormat)
    assert play(chat, TALK) == template_ids(tokenizer, TALK)
    assert chat.parse(chat.render(speak("x", "why"))).message == speak("x", "why")
    assert "without tools only" in chat.notes[0]
    with pytest.raises(TemplateError, match="without tools"):
        chat.open(TALK[:2], [TOOL])


def test_vocabulary_with_spaces_in_its_pieces(metaspace):
    """Encoding a suffix alone would add a space here: the difference has to be taken between ids."""
    chat = format_for(metaspace)
    assert isinstance(chat, GenericFormat)
    assert play(chat, TALK) == template_ids(metaspace, TALK)
    assert chat.parse(chat.render(speak("price of fig"))).message == speak("price of fig")


def test_closes_what_was_cut_off(qwen, generic):
    for text, closing in (("so", "<|im_end|>"), ("<think>\nwhy", "\n</think>\n\n<|im_end|>"), ("so<|im_end|>", "")):
        ids = tuple(qwen.encode(text))
        extension = generic.extend([TALK[1], generic.parse(ids).message], (), ids, [say("user", "on")])
        assert qwen.decode(extension.ids) == closing + "\n<|im_start|>user\non<|im_end|>\n<|im_start|>assistant\n"


def test_dropped_thoughts_need_the_fitting_retention(dropping):
    with pytest.raises(TemplateError, match=r"'until_user', but retention='preserve'.*<think>"):
        GenericFormat(dropping)
    chat = GenericFormat(dropping, "until_user")
    assert chat.native == "until_user"
    messages = [
        say("user", "x"),
        speak("", "why", [call()]),
        result("5"),
        speak("so", "done"),
        say("user", "y"),
        speak("z"),
        TALK[1],
    ]
    assert play(chat, messages, [TOOL]) == template_ids(dropping, messages, [TOOL])
    assert chat.extend(messages[:4], (TOOL,), chat.render(messages[3]), messages[4:5]).restart
    assert GenericFormat(dropping, "strip").open(messages[:3]) == template_ids(
        dropping, [messages[0], speak("", None, [call()]), result("5")]
    )


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (COUNTING, r"not prefix-stable.*at character 0.*expected '1 messages.*found '2 messages"),
        (SHORTENING, r"not prefix-stable.*expected 'Odd answer\.', found '\.\.\."),
        (UNENDED, r"no special token to stop at"),
        (CHATML.replace("m.content", "'hidden'"), "does not write the assistant's text"),
        (CHATML.replace("assistant\n'", "assistant\nSure: '"), "generation prompt is not how it begins"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{{ oops(", "unexpected"),
    ],
)
def test_refusals_say_where(qwen, retemplate, template, reason):
    with pytest.raises(TemplateError, match=f"(?s){reason}"):
        GenericFormat(retemplate(qwen, template))
    with pytest.raises(TemplateError, match=f"(?s){reason}"):
        format_for(retemplate(qwen, template))


def test_line_break_only_between_messages(qwen, retemplate):
    """A template that leaves the last line break out opens differently than it goes on."""
    with pytest.raises(TemplateError, match="not prefix-stable"):
        format_for(retemplate(qwen, BREAK_UNLESS_LAST))


def test_unreadable_calls_mean_no_tools(llama3, retemplate):
    chat = GenericFormat(retemplate(llama3, LLAMA31_LIKE))
    assert "without tools only" in chat.notes[0]
    assert play(chat, TALK) == template_ids(retemplate(llama3, LLAMA31_LIKE), TALK)


def test_render_refuses_what_is_read_differently(generic):
    with pytest.raises(TemplateError, match="read back as another"):
        generic.render(speak("a<think>b"))
    with pytest.raises(TemplateError, match="role"):
        generic.render(say("user", "a"))


def test_no_template(qwen, retemplate):
    with pytest.raises(TemplateError, match="no chat template"):
        format_for(retemplate(qwen, None))
