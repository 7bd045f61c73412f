"""What every wire format is translated to and from: one request, the pieces of a streamed answer, pictures by their hash."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

from phronesis.errors import WireError
from phronesis.pictures import Images, ImageShelf
from phronesis.policy import Answer
from phronesis.records import Finish, ImagePart, Message, TextPart, ToolCall, ToolSpec, Usage

ToolMode = Literal["auto", "none", "required"]
"""Whether tools may, must not or must be called."""

MALFORMED = "malformed"
"""Argument that carries what was written instead of a call's arguments, where a format only takes objects."""


class ChatRequest(Struct, frozen=True, kw_only=True):
    """A conversation to be answered, whatever format it came in or goes out in. None leaves a choice to the server."""

    model: str
    """Name of the model."""
    messages: tuple[Message, ...]
    """The conversation."""
    tools: tuple[ToolSpec, ...] = ()
    """What may be called."""
    tool_mode: ToolMode = "auto"
    """Whether it may, must not or must be called."""
    tool_name: str | None = None
    """The one tool that must be called; None leaves the choice. Set only with `tool_mode` ``required``."""
    parallel_calls: bool = True
    """Whether one answer may call several tools."""
    max_tokens: int | None = None
    """Most tokens of the answer."""
    temperature: float | None = None
    """0 means greedy."""
    top_p: float | None = None
    """Nucleus mass, in (0, 1]."""
    top_k: int | None = None
    """Most likely tokens kept; 0 keeps all."""
    min_p: float | None = None
    """Relative probability floor."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer."""
    seed: int | None = None
    """Seed of the answer."""
    n: int = 1
    """Answers wanted."""
    logprobs: bool = False
    """Whether token log-probabilities are wanted."""
    stream: bool = False
    """Whether the answer is wanted in pieces."""
    stream_usage: bool = False
    """Whether the stream is to end with the token counts, where that must be asked for."""
    effort: str | None = None
    """How much to think, in the format's own words."""
    rest: dict[str, Any] = {}
    """Fields of the wire format that have no place above, verbatim: read so that nobody drops them unseen, and sent."""


class ThoughtPiece(Struct, frozen=True, tag="thought"):
    """A part of the thought."""

    text: str
    """Characters."""


class TextPiece(Struct, frozen=True, tag="text"):
    """A part of what is said."""

    text: str
    """Characters."""


class CallPiece(Struct, frozen=True, tag="call"):
    """A part of a tool call. The first one of a call names it; the arguments are a JSON text in parts."""

    index: int
    """Number of the call in its message."""
    arguments: str = ""
    """Characters of the JSON text."""
    id: str | None = None
    """The call's id; None after the first piece."""
    name: str | None = None
    """The tool's name; None after the first piece."""


class EndPiece(Struct, frozen=True, tag="end"):
    """Why the answer ended."""

    finish: Finish
    """The reason."""


class UsagePiece(Struct, frozen=True, tag="usage"):
    """The token counts; a later one replaces an earlier one."""

    usage: Usage
    """The counts."""


Piece = ThoughtPiece | TextPiece | CallPiece | EndPiece | UsagePiece


NO_IMAGES = ImageShelf()
"""A shelf for conversations without pictures; what is asked of it is missing."""


def image_base64(image: ImagePart, images: Images, where: str) -> str:
    """A picture's bytes as base64; a `WireError` when they are missing."""
    try:
        return base64.b64encode(images.load(image)).decode()
    except KeyError as error:
        raise WireError(
            where, f"the bytes of image {image.sha256[:12]!r} are not at hand; pass the store that holds them"
        ) from error


def keep_base64(text: str, media_type: str, images: Images, where: str) -> ImagePart:
    """Stores a picture sent as base64."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError(where, f"not base64: {error}") from error
    return images.keep(content, media_type)


def read_arguments(text: str, id: str, name: str) -> ToolCall:
    """A call whose arguments are a JSON text; a text that is no JSON object makes a call with `error` and `raw`.

    >>> read_arguments('{"a": 1}', "call_0_0", "add").arguments
    {'a': 1}
    >>> read_arguments("[1]", "call_0_0", "add").error
    'the arguments are not a JSON object'
    """
    if not text.strip():
        return ToolCall(id=id, name=name, arguments={})
    try:
        value = cast(object, msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return ToolCall(id=id, name=name, arguments={}, error=f"the arguments are not valid JSON: {error}", raw=text)
    if not isinstance(value, dict):
        return ToolCall(id=id, name=name, arguments={}, error="the arguments are not a JSON object", raw=text)
    return ToolCall(id=id, name=name, arguments=cast(dict[str, object], value))


def call_arguments(call: ToolCall) -> dict[str, Any]:
    """A call's arguments to send; what was written instead of them when the call is malformed."""
    return call.arguments if call.error is None else {MALFORMED: call.raw or ""}


def said_text(message: Message) -> str:
    """The text of an answer a server gives: what was said, then every malformed call as it was written."""
    return message.text + "".join(call.raw or "" for call in message.tool_calls if call.error is not None)


def sound_calls(message: Message) -> tuple[ToolCall, ...]:
    """The calls of an answer a server gives as calls: the well-formed ones."""
    return tuple(call for call in message.tool_calls if call.error is None)


def compact(value: object) -> str:
    """A JSON text without spaces."""
    return msgspec.json.encode(value).decode()


def decoded(data: str) -> object:
    """The JSON value of an event; a `WireError` when it is none."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise WireError("event", f"not JSON ({error}): {data[:200]!r}") from error


def pieces(answer: Answer, size: int = 24) -> Iterator[Piece]:
    """A finished answer in pieces of at most `size` characters, for a server that has all of it at once.

    >>> [type(p).__name__ for p in pieces(Answer(message=Message(role="assistant"), finish=Finish.stop))]
    ['EndPiece', 'UsagePiece']
    """
    message = answer.message
    yield from (ThoughtPiece(part) for part in _cut(message.thought or "", size))
    yield from (TextPiece(part) for part in _cut(said_text(message), size))
    for index, call in enumerate(sound_calls(message)):
        yield CallPiece(index, id=call.id, name=call.name)
        yield from (CallPiece(index, part) for part in _cut(compact(call.arguments), size))
    yield EndPiece(answer.finish)
    yield UsagePiece(answer.usage)


def _cut(text: str, size: int) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


class Gather:
    """Puts the pieces of a streamed answer together.

    >>> g = Gather(turn=3)
    >>> g.take_all((CallPiece(0, name="add"), CallPiece(0, '{"a":'), CallPiece(0, " 1}"), EndPiece(Finish.stop)))
    >>> call = g.answer("model", "id").message.tool_calls[0]
    >>> call.id, call.arguments
    ('call_3_0', {'a': 1})
    """

    def __init__(self, turn: int = 0):
        self._turn = turn
        self._thought: list[str] = []
        self._thinks = False
        self._text: list[str] = []
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        self.finish: Finish | None = None
        self.usage: Usage | None = None

    def take(self, piece: Piece) -> None:
        """Adds the next piece.

        Raises:
            WireError: a piece of a call that was never named.
        """
        match piece:
            case ThoughtPiece(text):
                self._thinks = True
                self._thought.append(text)
            case TextPiece(text):
                self._text.append(text)
            case CallPiece(index, arguments, id, name):
                self._call(index, arguments, id, name)
            case EndPiece(finish):
                self.finish = finish
            case UsagePiece(usage):
                self.usage = usage

    def take_all(self, found: Iterable[Piece]) -> None:
        """Adds several."""
        for piece in found:
            self.take(piece)

    def answer(self, model: str, id: str) -> Answer:
        """The whole answer.

        Raises:
            WireError: the stream never said why the answer ended.
        """
        if self.finish is None:
            raise WireError("finish_reason", "the stream ended without one")
        text = "".join(self._text)
        message = Message(
            role="assistant",
            content=(TextPart(text=text),) if text else (),
            thought="".join(self._thought) if self._thinks else None,
            tool_calls=tuple(read_arguments("".join(a), i, n) for _, (i, n, a) in sorted(self._calls.items())),
        )
        return Answer(message=message, finish=self.finish, usage=self.usage or Usage(), model=model, id=id)

    def _call(self, index: int, arguments: str, id: str | None, name: str | None) -> None:
        if index not in self._calls:
            if not name:
                raise WireError(f"tool_calls[{index}].function.name", "expected a text in the call's first piece, got nothing")
            self._calls[index] = (id or f"call_{self._turn}_{len(self._calls)}", name, [])
        self._calls[index][2].append(arguments)
