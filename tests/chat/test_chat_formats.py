"""Worked examples of the two known families: exact text, spans, mistakes, unfinished completions, budgets."""

import pytest
from chat_cases import LLAMA31_LIKE, TOOL, call, play, result, speak, template_ids

from phronesis.chat import Llama3Format, QwenFormat, format_for
from phronesis.errors import ConfigError, TemplateError
from phronesis.records import ImagePart, Message, say

ASK = say("user", "price of fig?")


@pytest.fixture(scope="session")
def chat(qwen):
    return QwenFormat(qwen)


@pytest.fixture(scope="session")
def llama(llama3):
    return Llama3Format(llama3)


def ids_of(tokenizer, text):
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def kinds(tokenizer, parsed, completion):
    return [(s.kind, tokenizer.decode(completion[s.start : s.end])) for s in parsed.spans]


def test_qwen_prompt_and_extension_as_text(qwen, chat):
    prompt = qwen.decode(chat.open([say("system", "be brief"), ASK], [TOOL]))
    assert prompt == (
        '<|im_start|>system\nbe brief\n\n# Tools\n\n<tools>\n{"name": "look_up", "description": "Price of an item.", '
        '"parameters": {"item": "string"}}\n</tools><|im_end|>\n'
        "<|im_start|>user\nprice of fig?<|im_end|>\n<|im_start|>assistant\n"
    )
    message = speak(calls=[call(0), call(1, item="kiwi")])
    extension = chat.extend([ASK, message], [TOOL], chat.render(message), [result("5"), result("6", "call_0_1")])
    assert not extension.restart
    # The line break after <|im_end|> comes first: without it every turn would be one token short.
    assert qwen.decode(extension.ids) == (
        "\n<|im_start|>user\n<tool_response>\n5\n</tool_response>\n<tool_response>\n6\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_qwen_spans_of_a_whole_turn(qwen, chat):
    text = (
        '<think>\n12 + 34\n</think>\n\nso<tool_call>\n{"name": "look_up", "arguments": {"item": "fig"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "look_up", "arguments": {}}\n</tool_call><|im_end|>'
    )
    completion = ids_of(qwen, text)
    parsed = chat.parse(completion, turn=3)
    assert kinds(qwen, parsed, completion) == [
        ("think", "<think>\n12 + 34\n</think>\n\n"),
        ("say", "so"),
        ("act", '<tool_call>\n{"name": "look_up", "arguments": {"item": "fig"}}\n</tool_call>\n'),
        ("act", '<tool_call>\n{"name": "look_up", "arguments": {}}\n</tool_call>'),
        ("scaffold", "<|im_end|>"),
    ]
    assert parsed.message.thought == "12 + 34"
    assert parsed.message.text == "so"
    assert [(c.id, c.name, c.arguments) for c in parsed.message.tool_calls] == [
        ("call_3_0", "look_up", {"item": "fig"}),
        ("call_3_1", "look_up", {}),
    ]
    assert parsed.error is None


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ('{"name": "look_up", "arguments": {"item": }}', "not valid JSON"),
        ('{"name": "look_up", "arguments": {"item": NaN}}', "not valid JSON"),
        ('{"name": "look_up", "arguments": {"item": "\\ud800"}}', "not valid JSON"),
        ('{"name": "look_up", "arguments": {}} and more', "not valid JSON"),
        ('{"name": "a", "arguments": {"x": ' + "[" * 200 + "]" * 200 + "}}", "nested more than 64 deep"),
        ("[" * 100_000, "nested more than 64 deep"),
        ("", "not valid JSON"),
        ('["look_up"]', "not a JSON object"),
        ('{"arguments": {}}', "has no 'name'"),
        ('{"name": 7, "arguments": {}}', "has no 'name'"),
        ('{"name": "look_up"}', "has no 'arguments'"),
        ('{"name": "look_up", "arguments": "fig"}', "'arguments' of the call is not a JSON object"),
        ('{"name": "look_up", "arguments": null}', "'arguments' of the call is not a JSON object"),
    ],
)
def test_malformed_calls_are_calls_with_an_error(qwen, chat, payload, error):
    raw = f"<tool_call>\n{payload}\n</tool_call>"
    parsed = chat.parse(ids_of(qwen, raw + "<|im_end|>"))
    (made,) = parsed.message.tool_calls
    assert error in made.error
    assert error in parsed.error
    assert made.arguments == {}
    assert made.raw == raw
    assert [s.kind for s in parsed.spans] == ["act", "scaffold"]
    assert chat.parse(chat.render(parsed.message)).message == parsed.message


@pytest.mark.parametrize(
    ("text", "message", "error"),
    [
        ("<think>\nwhy", speak(thought="why"), "the thought was never closed"),
        ("<think>\na <tool_call>\n{}", speak(thought="a <tool_call>\n{}"), "the thought was never closed"),
        ("so</think>x", speak("so</think>x"), "'</think>' closes nothing"),
        ("</tool_call>", speak("</tool_call>"), "'</tool_call>' closes nothing"),
        ("<think>a</think>\n<think>b</think>c", speak("c", "a\n\nb"), "the message thinks more than once"),
        ("<think></think>", speak(thought=""), None),
        ("\n<think>\na\n</think>\n\nb", speak("b", "a"), None),
        ("<think>\na\n</think>b", speak("b", "a"), None),
        ("", speak(), None),
    ],
)
def test_odd_completions(qwen, chat, text, message, error):
    parsed = chat.parse(ids_of(qwen, text))
    assert parsed.message == message
    assert parsed.error == error


def test_unclosed_and_nested_calls(qwen, chat):
    text = '<tool_call>\n{"name": "a"<tool_call>\n{"name": "b", "arguments": {}}\n</tool_call>x<tool_call>\n{"n'
    parsed = chat.parse(ids_of(qwen, text))
    first, second, third = parsed.message.tool_calls
    assert (first.error, first.raw) == ("the call was never closed", '<tool_call>\n{"name": "a"')
    assert (second.name, second.error) == ("b", None)
    assert (third.error, third.raw) == ("the call was never closed", '<tool_call>\n{"n')
    assert parsed.message.text == "x"
    assert [s.kind for s in parsed.spans] == ["act", "act", "say", "act"]


def test_tags_spelt_out_are_text(qwen, chat):
    spelt = tuple(i for c in "<think>" for i in ids_of(qwen, c))
    assert qwen.decode(spelt) == "<think>"
    assert chat.parse(spelt).message == speak("<think>")


def test_bytes_that_are_no_text(qwen, chat):
    half = ids_of(qwen, "\u00e9")[:1]
    parsed = chat.parse((*half, *half))
    assert parsed.message.text == "\ufffd\ufffd"
    assert parsed.error is None


@pytest.mark.parametrize(
    ("completion", "closing"),
    [
        ("so", "<|im_end|>"),
        ("<think>\nwhy", "\n</think>\n\n<|im_end|>"),
        ('<tool_call>\n{"na', "<|im_end|>"),
        ("so<|im_end|>", ""),
        ("so<|endoftext|>", "<|im_end|>"),
        ("", "<|im_end|>"),
    ],
)
def test_what_was_cut_off_is_closed(qwen, chat, completion, closing):
    ids = ids_of(qwen, completion)
    extension = chat.extend([ASK, chat.parse(ids).message], (), ids, [say("user", "on")])
    assert qwen.decode(extension.ids) == closing + "\n<|im_start|>user\non<|im_end|>\n<|im_start|>assistant\n"


def test_qwen_budget_closes_the_thought(qwen, chat, spelt):
    budget = chat.thought_budget(7)
    assert (budget.max_tokens, qwen.decode([budget.open_id]), qwen.decode(budget.close_ids)) == (7, "<think>", "\n</think>")
    assert budget.close_ids[-1] == qwen.convert_tokens_to_ids("</think>")
    with pytest.raises(ConfigError, match="-1"):
        chat.thought_budget(-1)
    assert QwenFormat(spelt).thought_budget(7) is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (speak("a<think>b"), "'<think>' stands inside"),
        (speak("a", "b</think>c"), "'</think>' stands inside"),
        (speak("a<|im_end|>"), "control token"),
        (speak("", None, [call(item="</tool_call>")]), "'</tool_call>' stands inside"),
        (speak("", None, [call(item=float("nan"))]), "not JSON"),
        (say("user", "a"), "role"),
    ],
)
def test_render_refuses_what_would_be_read_differently(chat, message, reason):
    with pytest.raises(TemplateError, match=reason):
        chat.render(message)


def test_images_are_refused(chat):
    with pytest.raises(TemplateError, match="image/png"):
        chat.open([Message(role="user", content=(ImagePart(sha256="0" * 64, media_type="image/png"),))])


def test_unknown_retention(qwen):
    with pytest.raises(ConfigError, match="'keep'"):
        QwenFormat(qwen, "keep")


def test_prompt_that_opens_the_thought(dropping, retemplate):
    opened = retemplate(dropping, dropping.chat_template.replace("assistant\\n' if add", "assistant\\n<think>\\n' if add"))
    chat = format_for(opened, "until_user")
    assert isinstance(chat, QwenFormat)
    assert opened.decode(chat.open([ASK])).endswith("<|im_start|>assistant\n<think>\n")
    message = speak("five", "fig is 5")
    assert opened.decode(chat.render(message)) == "fig is 5\n</think>\n\nfive<|im_end|>"
    assert chat.parse(chat.render(message)).message == message
    assert chat.parse(chat.render(speak("five"))).message == speak("five", "")
    completion = ids_of(opened, "still thinking")
    ids = chat.extend([ASK, chat.parse(completion).message], (), completion, [result("5")]).ids
    assert opened.decode(ids).startswith("\n</think>\n\n<|im_end|>\n")


def test_llama3_spans_and_calls(llama3, llama):
    text = 'so\n{"name": "look_up", "parameters": {"item": "fig"}}; {"name": "b", "parameters": {}}<|eot_id|>'
    completion = ids_of(llama3, text)
    parsed = llama.parse(completion)
    assert parsed.message == speak("so", None, [call(), call(1, name="b").__class__(id="call_0_1", name="b", arguments={})])
    assert [k for k, _ in kinds(llama3, parsed, completion)] == ["say", "act", "scaffold"]
    assert llama.render(parsed.message) == completion


def test_llama3_python_tag_thought_and_mistakes(llama3, llama):
    tagged = llama.parse(ids_of(llama3, '<|python_tag|>{"name": "a", "parameters": {}}<|eom_id|>'))
    assert [(c.name, c.error) for c in tagged.message.tool_calls] == [("a", None)]
    thinking = llama.parse(ids_of(llama3, "<think>\nwhy\n</think>\n\nbecause<|eot_id|>"))
    assert thinking.message == speak("because", "why")
    assert [s.kind for s in thinking.spans] == ["think", "say", "scaffold"]
    broken = llama.parse(ids_of(llama3, '{"name": "a", "parameters": {'))
    assert "not valid JSON" in broken.message.tool_calls[0].error
    assert broken.message.tool_calls[0].raw == '{"name": "a", "parameters": {'
    missing = llama.parse(ids_of(llama3, '{"name": "a"}<|eot_id|>'))
    assert missing.error == "the call has no 'parameters'"
    unclosed = llama.parse(ids_of(llama3, "<think>\nwhy"))
    assert (unclosed.message, unclosed.error) == (speak(thought="why"), "the thought was never closed")
    assert llama.parse(ids_of(llama3, 'the set {"a"}')).message == speak('the set {"a"}')


def test_llama3_closes_and_stops(llama3, llama):
    assert [llama3.decode([i]) for i in llama.stop_ids] == ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"]
    tail = "<|start_header_id|>user<|end_header_id|>\n\non<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    for completion, closing in (("so", "<|eot_id|>"), ("so<|eom_id|>", ""), ("<think>\nwhy", "\n</think>\n\n<|eot_id|>")):
        ids = ids_of(llama3, completion)
        extension = llama.extend([ASK, llama.parse(ids).message], (), ids, [say("user", "on")])
        assert llama3.decode(extension.ids) == closing + tail
    assert llama.thought_budget(5) is None


def test_published_llama31_ways(llama3, retemplate):
    """Trimmed content, results as JSON strings, tools in the first user message: learnt from the template."""
    tokenizer = retemplate(llama3, LLAMA31_LIKE)
    chat = format_for(tokenizer)
    assert isinstance(chat, Llama3Format)
    assert len(chat.notes) == 2
    assert "several calls" in chat.notes[0]
    assert "text beside a call" in chat.notes[1]
    messages = [say("user", " a \n"), speak("", None, [call()]), result('busy "5"'), speak("x"), say("user", "b")]
    assert play(chat, messages, [TOOL]) == template_ids(tokenizer, messages, [TOOL])
    assert '"busy \\"5\\""<|eot_id|>' in tokenizer.decode(play(chat, messages, [TOOL]))
