"""Episodes as JSON lines and back: exact on the way out, permissive on the way in.

JSON has no infinities, no NaN and no lone surrogates, and an environment's payload may hold objects that are not JSON at
all. An episode that has any of these is written *marked*: its line begins with ``{"$marked":true``, such values are
``{"$float": "-inf"}``, ``{"$text": "..."}`` (escaped) or ``{"$repr": "..."}`` (kept as text only, not restored), and keys
that begin with ``$`` get one more.

Fields of a newer version are ignored; words of a newer version (a stop reason, a span kind) are replaced by the nearest
cautious one and reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple, cast, get_args

import msgspec
from msgspec import Struct

from phronesis.records import Effect, Episode, Finish, Role, SpanKind, Stop

Json = dict[str, object]

_MARK = b'{"$marked":true,'


class Decoded(NamedTuple):
    """An episode read from a line."""

    episode: Episode
    """The episode."""
    substitutions: tuple[str, ...]
    """What had to be replaced because a newer version wrote it; empty as a rule."""


class Unreadable(Exception):
    """A line that is not an episode; caught and counted by the reader."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Episode)


def encode(episode: Episode) -> bytes:
    """One line, without newline. `decode` gives an equal episode back (bit for bit in every float, NaN included)."""
    if _is_plain(episode):
        try:
            return _encoder.encode(episode)
        except (TypeError, ValueError):  # not JSON, e.g. a lone surrogate or a numpy number
            pass
    return _MARK + _encoder.encode(_mark(episode))[1:]


def decode(line: bytes) -> Decoded:
    """The episode in a line.

    Raises:
        Unreadable: the line is not JSON, or lacks what every version of an episode has.
    """
    if not is_marked(line):
        try:
            return Decoded(_decoder.decode(line), ())
        except (msgspec.ValidationError, msgspec.DecodeError):
            pass  # perhaps a newer version: looked at again below
    try:
        raw: object = msgspec.json.decode(line)
        table = cast(Json, _unmark(raw) if is_marked(line) else raw)
        notes: list[str] = []
        _modernise(table, notes)
        return Decoded(msgspec.convert(table, Episode), tuple(notes))
    except (msgspec.ValidationError, msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def is_marked(line: bytes) -> bool:
    """True when the line holds values JSON cannot express."""
    return line.startswith(_MARK)


def _is_plain(episode: Episode) -> bool:
    """False when some number is not finite or some free value is not JSON. Sums, because they run at the speed of C."""
    total = episode.seconds + (episode.task.difficulty or 0.0)
    for component in episode.reward.components if episode.reward is not None else ():
        total += (component.score or 0.0) + component.weight
    free: list[object] = [episode.task.payload, *(t.parameters for t in episode.tools)]
    for turn in episode.turns:
        total += sum(turn.logprobs) + sum(turn.entropies or ()) + turn.temperature
        total += turn.started + turn.policy_seconds + turn.env_seconds
        if turn.action is not None:
            free += [c.arguments for c in turn.action.tool_calls]
        if turn.reply is not None:
            total += (turn.reply.reward or 0.0) + sum(turn.reply.metrics.values())
            free += [t.parameters for t in turn.reply.tools or ()]
            free += [c.arguments for m in turn.reply.messages for c in m.tool_calls]
    free += [c.arguments for m in (*episode.opening, *episode.task.messages) for c in m.tool_calls]
    return math.isfinite(total) and all(_is_json(value) for value in free)


def _is_json(value: object) -> bool:
    """True when a free value survives JSON unchanged."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(type(k) is str and _is_json(v) for k, v in cast(dict[object, object], value).items())
    if isinstance(value, list):
        return all(_is_json(v) for v in cast(list[object], value))
    return value is None or isinstance(value, (str, int))


def _mark(value: object) -> object:
    """`value` as JSON, with marks where JSON cannot express it."""
    if isinstance(value, Struct):
        config = type(value).__struct_config__
        table: Json = {} if config.tag is None else {str(config.tag_field): config.tag}
        for field in msgspec.structs.fields(type(value)):
            table[field.encode_name] = _mark(getattr(value, field.name))
        return table
    if isinstance(value, Enum):
        return cast(object, value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, str):
        return str(value) if _is_unicode(value) else {"$text": value.encode("unicode_escape").decode("ascii")}
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, Mapping):
        return {_mark_key(k): _mark(v) for k, v in cast(Mapping[object, object], value).items()}
    if isinstance(value, (list, tuple)):
        return [_mark(v) for v in cast(list[object], value)]
    return {"$repr": _mark(repr(value))}


def _mark_key(key: object) -> str:
    text = key if isinstance(key, str) else repr(key)
    text = text if _is_unicode(text) else text.encode("utf-8", "replace").decode()
    return "$" + text if text.startswith("$") else text


def _unmark(value: object) -> object:
    """The inverse of `_mark`."""
    if isinstance(value, list):
        return [_unmark(v) for v in cast(list[object], value)]
    if not isinstance(value, dict):
        return value
    table = cast(Json, value)
    if len(table) == 1:
        ((key, held),) = table.items()
        if key == "$float":
            return float(cast(str, held))
        if key == "$text":
            return cast(str, held).encode("ascii").decode("unicode_escape")
        if key == "$repr":
            return _unmark(held)
    return {k[1:] if k.startswith("$$") else k: _unmark(v) for k, v in table.items() if k != "$marked"}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _modernise(episode: Json, notes: list[str]) -> None:
    """Replaces, in place, words that this version does not know."""
    if _unknown(episode, "stop", [s.value for s in Stop], Stop.cancelled.value, notes) and episode.get("failure") is None:
        episode["failure"] = {"where": "store.read", "kind": "UnknownStop", "message": notes[-1]}
    task = cast(Json, episode["task"])
    for message in [*_tables(task, "messages"), *_tables(episode, "opening")]:
        _modernise_message(message, notes)
    for turn in _tables(episode, "turns"):
        _unknown(turn, "finish", [f.value for f in Finish], Finish.cancelled.value, notes)
        for span in _tables(turn, "spans"):
            _unknown(span, "kind", list(get_args(SpanKind)), "scaffold", notes)
        if isinstance(turn.get("action"), dict):
            _modernise_message(cast(Json, turn["action"]), notes)
        if isinstance(turn.get("reply"), dict):
            reply = cast(Json, turn["reply"])
            _unknown(reply, "stop", [s.value for s in Stop], None, notes)
            _unknown(reply, "effect", list(get_args(Effect)), None, notes)
            for message in _tables(reply, "messages"):
                _modernise_message(message, notes)


def _modernise_message(message: Json, notes: list[str]) -> None:
    _unknown(message, "role", list(get_args(Role)), "user", notes)
    for part in _tables(message, "content"):
        if part.get("type") not in ("text", "image"):
            notes.append(f"content part of type {part.get('type')!r} is not known to this version; read as a note in text")
            text = f"[{part.get('type')} part written by a newer version]"
            part.clear()
            part |= {"type": "text", "text": text}


def _tables(owner: Json, key: str) -> list[Json]:
    """The tables in the list under `key`; none when there is no list."""
    return cast(list[Json], owner.get(key) or [])


def _unknown(owner: Json, key: str, known: list[str], instead: str | None, notes: list[str]) -> bool:
    """Replaces an unknown word under `key`; True when it did."""
    word = owner.get(key)
    if word is None or word in known:
        return False
    owner[key] = instead
    notes.append(f"{key} {word!r} is not known to this version; read as {instead!r}")
    return True
