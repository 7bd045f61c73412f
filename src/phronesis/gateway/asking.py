"""From a client's request to sampling parameters, and from what was said to what the client is sent."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from phronesis.chat.format import ChatFormat
from phronesis.chat.wire.exchange import ChatRequest, said_text, sound_calls
from phronesis.data.traces import common_prefix
from phronesis.gateway.errors import bad_request
from phronesis.records import Message, TextPart, ToolCall
from phronesis.rollout.limits import Sampling


def chosen(request: ChatRequest) -> Sampling:
    """How a client wants to be answered; what it leaves open is the plain distribution.

    Raises:
        ConfigError: a value that cannot be.
    """
    defaults = Sampling()
    asked = {name: getattr(request, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    sampling = replace(defaults, **{name: value for name, value in asked.items() if value is not None})
    sampling.validate(training=False)
    return sampling


def has_choice(request: ChatRequest) -> bool:
    """Whether a client says anything about sampling."""
    return any(v is not None for v in (request.temperature, request.top_p, request.top_k, request.min_p, request.seed))


def visible(message: Message, stop: Sequence[str] = ()) -> Message:
    """What the client is sent: the text before the first stop text, malformed calls as the text that was written.

    >>> from phronesis.records import say
    >>> visible(say("assistant", "one. two."), ["."]).text
    'one'
    """
    text = said_text(message)
    cut = min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))
    shown = text[:cut]
    content = (TextPart(text=shown),) if shown else ()
    return replace(message, content=content, tool_calls=sound_calls(message))


def forced_call(chat: ChatFormat, request: ChatRequest) -> tuple[int, ...]:
    """Ids a completion must begin with for a call that the client demands; none where it leaves the choice.

    They are forced, so they are recorded as not sampled and never trained.

    Raises:
        GatewayError: the tool is not offered, or the chat format has no common beginning of calls.
    """
    if request.tool_mode != "required":
        return ()
    names = [tool.name for tool in request.tools]
    if not names or (request.tool_name is not None and request.tool_name not in names):
        wanted = "a call" if request.tool_name is None else f"a call of {request.tool_name!r}"
        raise bad_request(f"tool_choice demands {wanted}, but the tools offered are {names!r}")
    if request.tool_name is None:
        likes = [_call(chat, "a", {}), _call(chat, "Z", {})]
    else:
        likes = [
            _call(chat, request.tool_name, {}),
            _call(chat, request.tool_name, {"a": 1}),
            _call(chat, request.tool_name, {"Z": 1}),
        ]
    ids = likes[0]
    for other in likes[1:]:
        ids = ids[: common_prefix(ids, other)]
    if not ids:
        raise bad_request("tool_choice cannot be enforced: calls of this chat format have no common beginning; use 'auto'")
    return ids


def _call(chat: ChatFormat, name: str, arguments: dict[str, object]) -> tuple[int, ...]:
    call = ToolCall(id="call_0_0", name=name, arguments=arguments)
    return chat.render(Message(role="assistant", tool_calls=(call,)))
