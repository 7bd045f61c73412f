"""The tool contract: a typed, documented function the policy may call. Schemas come from hints and docstrings.

>>> @tool
... def add(a: int, b: int = 1) -> int:
...     '''Adds two whole numbers.
...
...     Args:
...         a: the first number.
...     '''
...     return a + b
>>> tool_spec(add).parameters["required"]
['a']
>>> import asyncio
>>> asyncio.run(call(add, {"a": 2}))
'3'
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast, get_type_hints, overload

import msgspec

from phronesis.errors import ConfigError, EnvFault, ToolError
from phronesis.pictures import SHELF
from phronesis.records import Effect, ImagePart, Part, TextPart, ToolSpec

__all__ = ["MAX_CHARS", "Picture", "Tool", "ToolError", "as_text", "as_tool", "call", "tool", "tool_spec"]

MAX_CHARS = 20_000
"""Characters of one tool result that reach the policy unless the tool says otherwise."""
MAX_ARGUMENT_CHARS = 100_000
"""Characters (and items) all arguments of one call may have together."""
MAX_DEPTH = 32
"""Levels of nesting an argument may have."""
MARK = "__phronesis_tool__"

F = TypeVar("F", bound=Callable[..., object])


class Picture(NamedTuple):
    """A picture as (part of) the result of a tool. Its bytes go to `phronesis.pictures.SHELF`, its hash to the policy."""

    content: bytes
    """An image file."""
    media_type: str = "image/png"
    """MIME type."""


class Settings(NamedTuple):
    """What `@tool(...)` was told; kept on the function."""

    name: str | None = None
    description: str | None = None
    effect: Effect | None = None
    max_chars: int = MAX_CHARS


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function with its schema, ready to be called with untrusted arguments."""

    spec: ToolSpec
    """What the policy sees."""
    function: Callable[..., object]
    """Called with keyword arguments; may return an awaitable."""
    types: Mapping[str, object]
    """Type of each argument, by name."""
    required: frozenset[str]
    """Arguments without a default."""
    effect: Effect | None = None
    """What a call does to the world; None when not declared."""
    max_chars: int = MAX_CHARS
    """Characters of a result that reach the policy."""
    tell: tuple[type[Exception], ...] = ()
    """Exceptions whose text goes back to the policy, besides `ToolError`; all others are environment faults."""

    def bind(self, arguments: Mapping[str, object]) -> dict[str, object]:
        """Checks untrusted arguments and converts them to the declared types. Strict: ``"3"`` is not a number.

        Raises:
            ToolError: unknown_argument, missing_argument or bad_argument, naming the argument and what was expected.
        """
        name = self.spec.name
        for given in arguments:
            if given not in self.types:
                takes = ", ".join(self.types) or "no arguments"
                raise ToolError(f"{name} has no argument {_short(given)}; it takes: {takes}", "unknown_argument")
        missing = [n for n in self.types if n in self.required and n not in arguments]
        if missing:
            raise ToolError(f"{name} needs the argument {missing[0]!r}", "missing_argument")
        _check_plain(arguments, MAX_DEPTH, [MAX_ARGUMENT_CHARS])
        return {n: self._convert(n, value) for n, value in arguments.items()}

    def _convert(self, argument: str, value: object) -> object:
        try:
            return msgspec.convert(value, type=cast("type[object]", self.types[argument]))
        except msgspec.ValidationError as error:
            schema = cast("dict[str, Any]", self.spec.parameters["properties"][argument])
            choices = cast("list[object]", schema.get("enum", []))
            wanted = f"must be one of {', '.join(map(repr, choices))}" if choices else str(error)[:300]
            raise ToolError(f"argument {argument!r}: {wanted}; got {_short(value)}", "bad_argument") from error

    async def call(self, arguments: Mapping[str, object]) -> str:
        """Like `parts`, with a note in place of each picture."""
        found = await self.parts(arguments)
        return "\n".join(p.text if isinstance(p, TextPart) else f"[{p.media_type} {p.sha256[:12]}]" for p in found)

    async def parts(self, arguments: Mapping[str, object]) -> tuple[Part, ...]:
        """Checks the arguments, runs the function, and returns its result as parts of a message.

        A `Picture` becomes an image; a tuple that holds one becomes a part for each of its items; everything else is one text.

        Raises:
            ToolError: the call was wrong or the tool refused it; the text is for the policy.
            EnvFault: the result is neither text nor JSON. Whatever else the function raises comes through unchanged.
        """
        values = self.bind(arguments)
        try:
            result = self.function(**values)
            if inspect.isawaitable(result):
                result = await cast("Awaitable[object]", result)
        except ToolError:
            raise
        except self.tell as error:
            raise ToolError(str(error) or type(error).__name__, "tool_raised") from error
        items: tuple[object, ...] = (result,)
        if isinstance(result, tuple) and not isinstance(result, Picture):
            found = cast("tuple[object, ...]", result)
            items = found if any(isinstance(item, Picture) for item in found) else items
        return tuple(self._part(item) for item in items)

    def _part(self, item: object) -> ImagePart | TextPart:
        if isinstance(item, Picture):
            return SHELF.keep(item.content, item.media_type)
        return TextPart(text=as_text(item, self.max_chars, where=self.spec.name))


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *, name: str | None = None, description: str | None = None, effect: Effect | None = None, max_chars: int = MAX_CHARS
) -> Callable[[F], F]: ...
def tool(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    effect: Effect | None = None,
    max_chars: int = MAX_CHARS,
) -> F | Callable[[F], F]:
    """Marks a function or method as a tool and returns it unchanged; `as_tool` makes the `Tool`.

    Args:
        function: typed and documented; sync, or async (which must not block).
        name: what the policy calls it; the function's own name by default.
        description: instead of the docstring's text before its first section.
        effect: ``pure``, ``mutating`` or ``irreversible``.
        max_chars: longest result, in characters.
    """
    settings = Settings(name, description, effect, max_chars)

    def mark(marked: F) -> F:
        setattr(marked, MARK, settings)
        return marked

    return mark if function is None else mark(function)


def as_tool(function: Callable[..., object] | Tool, *, tell: tuple[type[Exception], ...] = ()) -> Tool:
    """The `Tool` of a typed, documented function or bound method, decorated or not.

    Raises:
        ConfigError: a parameter has no type hint, or one JSON cannot carry; no description; ``*args`` or ``**kwargs``.
    """
    if isinstance(function, Tool):
        return function
    settings = cast("Settings", getattr(function, MARK, Settings()))
    name = settings.name or getattr(function, "__name__", None)
    if not name:
        raise ConfigError(f"{function!r} has no name; wrap it in a def, or decorate it with @tool(name=...)")
    description, notes = _document(function)
    if not (settings.description or description):
        raise ConfigError(f"tool {name!r} has no docstring; the policy only knows what the first lines of it say")
    types = _argument_types(name, function)
    parameters = inspect.signature(function).parameters
    required = [n for n in types if parameters[n].default is inspect.Parameter.empty]
    properties, definitions = _schemas(name, types)
    for argument, schema in properties.items():
        if argument in notes:
            schema["description"] = notes[argument]
        if argument not in required and _is_json(parameters[argument].default):
            schema["default"] = parameters[argument].default
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if definitions:
        schema["$defs"] = definitions
    return Tool(
        spec=ToolSpec(name=name, description=settings.description or description, parameters=schema),
        function=function,
        types=types,
        required=frozenset(required),
        effect=settings.effect,
        max_chars=settings.max_chars,
        tell=tell,
    )


def tool_spec(function: Callable[..., object] | Tool) -> ToolSpec:
    """What the policy sees of a tool: name, description, JSON schema."""
    return as_tool(function).spec


async def call(function: Callable[..., object] | Tool, arguments: Mapping[str, object]) -> str:
    """Calls a tool once with untrusted arguments; see `Tool.call`."""
    return await as_tool(function).call(arguments)


def as_text(result: object, max_chars: int = MAX_CHARS, *, where: str = "tool") -> str:
    """A result as the policy reads it: text verbatim, everything else as JSON, cut at `max_chars` with a note.

    >>> as_text({"n": [1, None]}), as_text(None), as_text("abcdef", 4)
    ('{"n":[1,null]}', 'null', 'abcd\\n[2 characters cut]')

    Raises:
        EnvFault: the result is neither text nor something JSON can carry.
    """
    if isinstance(result, str):
        text = result if result.isascii() else result.encode("utf-8", "replace").decode("utf-8")
    else:
        try:
            text = msgspec.json.encode(result).decode()
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise EnvFault(f"{where!r} returned {type(result).__name__!r}, which is neither text nor JSON: {error}") from error
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}\n[{len(text) - max_chars} characters cut]"


def _short(value: object, limit: int = 80) -> str:
    """A repr for an error message; long ones are cut."""
    shown = repr(value) if not isinstance(value, str) else repr(value[: limit + 1])
    return shown if len(shown) <= limit + 2 else f"{shown[:limit]}…"


def _check_plain(value: object, depth: int, left: list[int]) -> None:
    """Refuses what JSON can carry but tools choke on: endless text, deep nesting, lone surrogates, huge or infinite numbers."""
    left[0] -= len(value) if isinstance(value, str) else 1
    if left[0] < 0 or depth < 0:
        raise ToolError(
            f"the arguments are too large (over {MAX_ARGUMENT_CHARS} characters or {MAX_DEPTH} levels)", "bad_argument"
        )
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise ToolError("the arguments hold a lone surrogate, which is not a character", "bad_argument")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ToolError("the arguments hold a number of more than 64 bits", "bad_argument")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ToolError("the arguments hold a number that is not finite", "bad_argument")
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            _check_plain(key, depth - 1, left)
            _check_plain(item, depth - 1, left)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            _check_plain(item, depth - 1, left)


def _argument_types(name: str, function: Callable[..., object]) -> dict[str, object]:
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ConfigError(
            f"tool {name!r}: a type hint cannot be read ({error}); import the type where the tool is defined"
        ) from error
    types: dict[str, object] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"tool {name!r}: {parameter} cannot be described to a policy; name every argument")
        if parameter.name not in hints:
            raise ConfigError(f"tool {name!r}: argument {parameter.name!r} has no type hint")
        types[parameter.name] = hints[parameter.name]
    return types


def _schemas(name: str, types: Mapping[str, object]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """JSON schemas of the arguments, and of the named types they refer to."""
    properties: dict[str, dict[str, Any]] = {}
    definitions: dict[str, Any] = {}
    for argument, kind in types.items():
        try:
            (schema,), parts = msgspec.json.schema_components((kind,), ref_template="#/$defs/{name}")
        except TypeError as error:
            raise ConfigError(
                f"tool {name!r}: argument {argument!r} has the type {kind!r}, which JSON cannot carry; "
                "use str, int, float, bool, Literal, Enum, list, dict, TypedDict, dataclass or msgspec.Struct"
            ) from error
        properties[argument] = _say_type(schema)
        definitions |= {key: _say_type(part) for key, part in parts.items()}
    return properties, definitions


def _say_type(schema: dict[str, Any]) -> dict[str, Any]:
    """Adds ``"type": "string"`` to an enumeration of texts, which several engines require."""
    choices = schema.get("enum")
    if choices and "type" not in schema and all(isinstance(c, str) for c in choices):
        return {"type": "string", **schema}
    return dict(schema)


def _is_json(value: object) -> bool:
    return isinstance(value, str | int | float | bool | None)


_SECTION = re.compile(
    r"(?:Args|Arguments|Parameters|Params|Returns?|Raises|Yields|Examples?|Notes?|Warnings?|Attributes|References|Source):\s*$"
)
_ENTRY = re.compile(r"\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?\s*:\s*(?P<text>.*)$")


def _document(function: Callable[..., object]) -> tuple[str, dict[str, str]]:
    """Description and per-argument notes of a Google-style docstring, each on one line per paragraph."""
    lines = (inspect.getdoc(function) or "").splitlines()
    first = next((i for i, line in enumerate(lines) if _SECTION.match(line)), len(lines))
    paragraphs = "\n".join(lines[:first]).strip().split("\n\n")
    description = "\n".join(" ".join(p.split()) for p in paragraphs if p.strip())
    notes: dict[str, list[str]] = {}
    inside, margin, current = False, 0, ""
    for line in lines[first:]:
        if _SECTION.match(line):
            inside, margin, current = line.split(":")[0] in ("Args", "Arguments", "Parameters", "Params"), 0, ""
            continue
        if not inside or not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        margin = margin or indent
        entry = _ENTRY.match(line.strip()) if indent <= margin else None
        if entry is not None:
            current = entry["name"]
            notes[current] = [entry["text"]]
        elif current:
            notes[current].append(line.strip())
    return description, {name: " ".join(" ".join(parts).split()) for name, parts in notes.items()}
