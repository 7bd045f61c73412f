"""What goes to a rollout worker and comes back: bytes of msgspec, the same on every node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec
from msgspec import Struct

from phronesis.pictures import SHELF
from phronesis.records import Episode, EpisodeGroup, ImagePart, Message
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.play import Ticket

T = TypeVar("T")


class Order(Struct, frozen=True, kw_only=True):
    """One episode to play."""

    ticket: Ticket
    """Which one."""
    limits: Limits
    """What it may use."""
    sampling: Sampling
    """How turns are sampled."""
    version: int
    """Weights it needs at least; they are waited for."""


class Played(Struct, frozen=True, kw_only=True):
    """Episodes of one group."""

    group: EpisodeGroup
    """The episodes."""
    pictures: tuple[tuple[bytes, str], ...] = ()
    """Content and media type of the pictures they show."""


def encode_order(order: Order) -> bytes:
    """As bytes."""
    return _encode(order)


def decode_order(data: bytes) -> Order:
    """From bytes."""
    return _decode(data, Order)


def encode_played(group: EpisodeGroup, *, pictures: bool) -> bytes:
    """A group as bytes.

    Args:
        group: any.
        pictures: whether the pictures it shows go with it; those that the shelf has dropped are missing then.
    """
    return _encode(Played(group=group, pictures=_pictures(group.episodes) if pictures else ()))


def decode_played(data: bytes) -> EpisodeGroup:
    """The group; its pictures are on this process's shelf then."""
    played = _decode(data, Played)
    for content, media_type in played.pictures:
        SHELF.keep(content, media_type)
    return played.group


def _encode(value: object) -> bytes:
    """MessagePack behind a 0; JSON behind a 1 where that cannot: whole numbers of more than 64 bits."""
    try:
        return b"\0" + msgspec.msgpack.encode(value)
    except OverflowError:
        return b"\1" + msgspec.json.encode(value)


def _decode(data: bytes, type: type[T]) -> T:
    return msgspec.msgpack.decode(data[1:], type=type) if data[0] == 0 else msgspec.json.decode(data[1:], type=type)


def _pictures(episodes: Iterable[Episode]) -> tuple[tuple[bytes, str], ...]:
    shown = {p.sha256: p for e in episodes for m in _messages(e) for p in m.content if isinstance(p, ImagePart)}
    found: list[tuple[bytes, str]] = []
    for part in shown.values():
        try:
            found.append((SHELF.load(part), part.media_type))
        except KeyError:  # the store will name it as lost
            continue
    return tuple(found)


def _messages(episode: Episode) -> Iterator[Message]:
    yield from episode.opening
    for turn in episode.turns:
        yield from turn.reply.messages if turn.reply is not None else ()
