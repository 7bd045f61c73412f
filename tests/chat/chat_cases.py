"""Texts, templates and random conversations the chat tests share."""

from hypothesis import strategies as st

from phronesis.records import Message, TextPart, ToolCall, ToolSpec, say

CORPUS = [
    "look up the price of fig and apple, 12 + 34 = 46.",
    "busy, see kiwi; the answer is 7",
    "price of plum plus price of fig",
] * 20

TOOL = ToolSpec(
    name="look_up",
    description="Price of an item.",
    parameters={"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_LINE_BREAK = CHATML.replace("<|im_end|>\n", "<|im_end|>")
BREAK_UNLESS_LAST = CHATML.replace("'<|im_end|>\n'", "'<|im_end|>' + ('' if loop.last else '\n')")
COUNTING = "{{ messages | length }} messages\n" + CHATML
SHORTENING = CHATML.replace("m.content", "(m.content if loop.last or m.role != 'assistant' else '...')")
UNENDED = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{{ 'assistant: ' if add_generation_prompt }}"
)

# Thoughts before the last user message vanish; the last message gets an empty thought when it has none.
QWEN3_LIKE = r"""
{%- if tools -%}
{{- '<|im_start|>system\n' + (messages[0].content + '\n\n' if messages[0].role == 'system' else '') + 'Tools:' -}}
{%- for tool in tools -%}{{- '\n' + tool | tojson -}}{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- elif messages[0].role == 'system' -%}
{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' -}}
{%- endif -%}
{%- set ns = namespace(query=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.query = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{{- '<|im_start|>user' if loop.previtem.role != 'tool' else '' -}}
{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' -}}
{{- '<|im_end|>\n' if loop.last or loop.nextitem.role != 'tool' else '' -}}
{%- elif m.role == 'assistant' -%}
{%- set thought = (m.reasoning_content or '').strip('\n') -%}
{{- '<|im_start|>assistant\n' -}}
{%- if loop.index0 > ns.query and (loop.last or thought) -%}{{- '<think>\n' + thought + '\n</think>\n\n' -}}{%- endif -%}
{{- m.content -}}
{%- for call in m.tool_calls or [] -%}
{{- '\n' if m.content or not loop.first else '' -}}
{%- set f = call.function -%}
{{- '<tool_call>\n{"name": "' + f.name + '", "arguments": ' + f.arguments | tojson + '}\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- elif m.role == 'user' or not loop.first -%}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{{- '<|im_start|>assistant\n' if add_generation_prompt else '' -}}
"""

# One call a message without the text beside it, results as JSON, content trimmed, tools in the first user message.
LLAMA31_LIKE = r"""
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content | trim -%}{%- set messages = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- endif -%}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' + ('Environment: ipython\n' if tools is not none else '') -}}
{{- system + '<|eot_id|>' -}}
{%- if tools is not none -%}
{{- '<|start_header_id|>user<|end_header_id|>\n\nFunctions:\n' -}}
{%- for t in tools -%}{{- t | tojson(indent=4) + '\n\n' -}}{%- endfor -%}
{{- messages[0].content | trim + '<|eot_id|>' -}}
{%- set messages = messages[1:] -%}
{%- endif -%}
{%- for m in messages -%}
{%- if 'tool_calls' in m -%}
{%- if m.tool_calls | length != 1 -%}{{- raise_exception('one call at a time') -}}{%- endif -%}
{%- set f = m.tool_calls[0].function -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + f.name + '", "parameters": ' + f.arguments | tojson -}}
{{- '}<|eot_id|>' -}}
{%- elif m.role == 'tool' -%}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content | tojson + '<|eot_id|>' -}}
{%- else -%}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' if add_generation_prompt else '' -}}
"""


def speak(text="", thought=None, calls=()):
    """An assistant message."""
    return Message(role="assistant", content=(TextPart(text=text),) if text else (), thought=thought, tool_calls=tuple(calls))


def call(n=0, turn=0, name="look_up", **arguments):
    """A well-formed call."""
    return ToolCall(id=f"call_{turn}_{n}", name=name, arguments=arguments or {"item": "fig"})


def result(text, id="call_0_0"):
    """A tool's answer."""
    return Message(role="tool", content=(TextPart(text=text),), tool_call_id=id, name="look_up")


def chat_dicts(messages):
    """Messages as Hugging Face templates take them, written apart from the library's own conversion."""
    chat = []
    for m in messages:
        entry = {"role": m.role, "content": m.text}
        if m.thought is not None:
            entry["reasoning_content"] = m.thought
        if m.tool_calls:
            entry["tool_calls"] = [
                {"type": "function", "id": c.id, "function": {"name": c.name, "arguments": c.arguments}} for c in m.tool_calls
            ]
        chat.append(entry)
    return chat


def template_ids(tokenizer, messages, tools=(), **arguments):
    """The ids of the tokenizer's own template."""
    offered = [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in tools
    ]
    encoded = tokenizer.apply_chat_template(
        chat_dicts(messages), tools=offered or None, add_generation_prompt=True, tokenize=True, return_dict=True, **arguments
    )
    return tuple(encoded["input_ids"])


def play(chat, messages, tools=()):
    """Opens with the messages before the first assistant message and plays on, rendering what the assistant says."""
    first = next((i for i, m in enumerate(messages) if m.role == "assistant"), len(messages))
    history, ids, at = list(messages[:first]), chat.open(messages[:first], tools), first
    while at < len(messages):
        completion = chat.render(messages[at])
        history.append(messages[at])
        end = next((i for i in range(at + 1, len(messages)) if messages[i].role == "assistant"), len(messages))
        new = messages[at + 1 : end]
        extension = chat.extend(history, tools, completion, new)
        ids = extension.ids if extension.restart else (*ids, *completion, *extension.ids)
        history += new
        at = end
    return ids


# Anything but the first characters of tags and calls; odd spaces, unicode and digits often.
_PIECES = st.sampled_from(
    ["\n", "\n\n", " ", "  ", "\t", "\r\n", "\u3000", "\u00e9", "e\u0301", "\u4e2d", "\U0001f600", "12", "price", ">", "/"]
)
texts = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<{"), max_size=20),
    st.lists(_PIECES, max_size=8).map("".join),
)
_keys = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<"), max_size=6)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=6,
)
_names = st.text(st.characters(categories=("Ll", "Nd"), include_characters="_-."), min_size=1, max_size=8)


@st.composite
def assistants(draw, thoughts=True, calls=True, stable=False, turn=0):
    """Assistant messages; `stable`: none whose first line break could melt into the prompt's."""
    written = draw(st.lists(st.tuples(_names, st.dictionaries(_keys, _values, max_size=3)), max_size=3 if calls else 0))
    thought = draw(st.none() | texts) if thoughts else None
    text = draw(texts)
    if stable and thought is None:
        text = text.lstrip()
        text = text if text or written else "ok"
    return speak(
        text, thought, [ToolCall(id=f"call_{turn}_{n}", name=name, arguments=a) for n, (name, a) in enumerate(written)]
    )


@st.composite
def conversations(draw, thoughts=True, calls=True):
    """A system message or none, then users, assistants and tool results; ends with a message to answer."""
    messages = [say("system", draw(texts))] if draw(st.booleans()) else []
    messages.append(say("user", draw(texts)))
    for _ in range(draw(st.integers(0, 3))):
        message = draw(assistants(thoughts, calls, stable=True))
        messages.append(message)
        if message.tool_calls:
            messages += [result(draw(texts), c.id) for c in message.tool_calls]
        else:
            messages.append(say("user", draw(texts)))
    return messages
