"""Which thoughts stay, worked out by hand, and when a new root begins."""

import logging

from chat_cases import call, chat_dicts, result, speak

from phronesis.chat import QwenFormat
from phronesis.chat.retention import retain, rewrites
from phronesis.records import say

A = speak("one", "a")
B = speak("", "b", [call()])
HISTORY = [say("user", "x"), A, say("user", "y"), B, result("5")]


def thoughts(messages):
    return [m.thought for m in messages if m.role == "assistant"]


def test_retain_by_hand():
    assert thoughts(retain(HISTORY, "preserve")) == ["a", "b"]
    assert thoughts(retain(HISTORY, "until_user")) == [None, "b"]
    assert thoughts(retain(HISTORY, "strip")) == [None, None]
    assert thoughts(retain([*HISTORY, say("user", "z")], "until_user")) == [None, None]
    assert thoughts(retain([speak("hi", "a")], "until_user")) == ["a"]


def test_rewrites_by_hand():
    user, tool = [say("user", "z")], [result("6")]
    assert not rewrites(HISTORY[:2], user, "preserve")
    assert rewrites(HISTORY[:2], user, "until_user")
    assert not rewrites(HISTORY[:4], tool, "until_user")
    assert rewrites([*HISTORY, speak("done")], user, "until_user")  # b, two messages back, is dropped
    assert not rewrites([HISTORY[0], speak("no thought")], user, "until_user")
    assert not rewrites([*HISTORY[:3], speak("no thought")], user, "until_user")  # a was dropped before
    assert rewrites(HISTORY[:4], tool, "strip")
    assert not rewrites([HISTORY[0], speak("no thought")], user, "strip")
    assert rewrites([HISTORY[0], speak("x", "")], user, "strip")  # an empty block is a block


def test_until_user_goes_on_after_tools_and_restarts_after_users(qwen):
    chat = QwenFormat(qwen, "until_user")
    on = chat.extend(HISTORY[:4], (), chat.render(B), [result("5")])
    assert not on.restart
    new = [say("user", "z")]
    over = chat.extend([*HISTORY, speak("done", "c")], (), chat.render(speak("done", "c")), new)
    assert over.restart
    text = qwen.decode(over.ids)
    assert "<think>" not in text
    assert "one<|im_end|>" in text
    assert text.startswith("<|im_start|>user\nx<|im_end|>")
    kept = qwen.apply_chat_template(
        chat_dicts([*HISTORY, speak("done"), *new]), tokenize=False, add_generation_prompt=True, thoughts="until_user"
    )
    assert text == kept


def test_a_new_root_repeats_malformed_calls_as_written(qwen):
    chat = QwenFormat(qwen, "strip")
    completion = tuple(
        qwen.encode('<think>\na\n</think>\n\nso\n<tool_call>\n{"name": oops}\n</tool_call>\n<tool_call>\n{"na<|im_end|>')
    )
    history = [say("user", "x"), chat.parse(completion).message]
    extension = chat.extend(history, (), completion, [result("that was no JSON")])
    assert extension.restart
    assert 'so\n<tool_call>\n{"name": oops}\n</tool_call>\n<tool_call>\n{"na<|im_end|>\n' in qwen.decode(extension.ids)


def test_keeping_more_than_the_template_is_said_aloud(dropping, caplog):
    with caplog.at_level(logging.WARNING):
        chat = QwenFormat(dropping, "preserve")
    assert "'until_user'" in chat.notes[0]
    assert chat.notes[0] in caplog.text
    assert "<think>\na\n</think>" in dropping.decode(chat.open([say("user", "x"), A, say("user", "y")]))
    assert QwenFormat(dropping, "until_user").notes == ()
    assert QwenFormat(dropping, "strip").notes == ()
