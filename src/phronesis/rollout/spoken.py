"""What a policy said, as a turn that does not know its place yet: of ids, or of messages.

The rule this module keeps: a turn of ids holds exactly what the engine produced; a turn of messages holds no ids at all,
says what it took in `Turn.usage`, and thereby can never be trained.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from phronesis.chat.format import ChatFormat
from phronesis.policy import Answer, Completion, prompt_crc
from phronesis.records import Finish, Message, ToolCall, Turn


def flaw(prompt: Sequence[int], completion: Completion) -> str | None:
    """Why a completion cannot be the engine's answer to the prompt it was sent; None when it can."""
    n = len(completion.ids)
    if completion.prompt_crc != prompt_crc(prompt):
        return f"the engine consumed other ids than the {len(prompt)} it was sent (crc differs)"
    if not n == len(completion.sampled) == len(completion.logprobs):
        return f"{n} ids, {len(completion.sampled)} marks, {len(completion.logprobs)} logprobs"
    if completion.finish == Finish.cancelled:
        return "the request was cancelled by the engine"
    return None


def of_ids(completion: Completion, chat: ChatFormat, number: int) -> Turn:
    """A completion as a turn; `number` numbers its calls."""
    parsed = chat.parse(completion.ids, number)
    return Turn(
        parent=None, context=(), completion=completion.ids, sampled=completion.sampled, logprobs=completion.logprobs,
        entropies=completion.entropies, version=completion.version, finish=completion.finish, spans=parsed.spans,
        prompt_crc=completion.prompt_crc, action=parsed.message, parse_error=parsed.error,
        cached_tokens=completion.cached_tokens,
    )  # fmt: skip


def of_messages(answer: Answer, history: Sequence[Message], number: int) -> Turn:
    """An answer as a turn. Calls whose id is empty or was used before in the conversation get one of their own.

    >>> from phronesis.records import Usage, say
    >>> turn = of_messages(Answer(message=say("assistant", "hi"), finish=Finish.stop, usage=Usage(output_tokens=2)), (), 0)
    >>> turn.completion, turn.logprobs, turn.usage.output_tokens
    ((), (), 2)
    """
    taken = {call.id for message in history for call in message.tool_calls}
    calls: list[ToolCall] = []
    for n, call in enumerate(answer.message.tool_calls):
        call = call if call.id and call.id not in taken else replace(call, id=f"call_{number}_{n}")
        taken.add(call.id)
        calls.append(call)
    wrong = [f"{call.name!r}: {call.error}" for call in calls if call.error is not None]
    return Turn(
        parent=None, context=(), completion=(), sampled=(), logprobs=(), finish=answer.finish, prompt_crc=prompt_crc(()),
        action=replace(answer.message, tool_calls=tuple(calls)), parse_error="; ".join(wrong) or None,
        cached_tokens=answer.usage.cached_tokens, usage=answer.usage,
    )  # fmt: skip
