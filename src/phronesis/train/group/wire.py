"""What travels between a run and the processes of its learner group, and the errors that come back.

A frame is a name and bytes: two little-endian lengths (4 and 8 bytes), the name, the bytes.
"""

from __future__ import annotations

import io
import struct
from typing import IO, Any, cast

import torch
from msgspec import Struct

from phronesis.errors import ConfigError, MismatchError, TrainingError, Untrainable
from phronesis.models.config import DecoderConfig
from phronesis.train.group.config import Backend, Method
from phronesis.train.learner_config import LearnerConfig
from phronesis.train.results import UpdateMetrics

_LENGTHS = struct.Struct("<LQ")
PIECE = 1 << 20
"""Bytes read from a pipe at once."""


class Joining(Struct, frozen=True, kw_only=True):
    """How a process joins its group."""

    rank: int
    """Its number."""
    world: int
    """How many there are."""
    address: str
    """``host:port`` of the store they meet at."""
    backend: Backend | None = None
    """None chooses."""
    threads: int | None = None
    """Threads it computes with; None leaves torch's choice."""
    timeout: float = 1800.0
    """Seconds any exchange may take."""


class Beginning(Struct, frozen=True, kw_only=True):
    """What the group learns with."""

    model: DecoderConfig
    """Sizes of the decoder."""
    learner: LearnerConfig
    """Settings."""
    method: Method = "ddp"
    """How it is held."""
    shared: str | None = None
    """File with a bucket of the weights (`phronesis.engine.weights`), into which new ones are written after every update; None
    where processes share no memory, and `weights` comes with this and is asked for."""
    weights: bytes = b""
    """The bucket itself, where there is no file."""


class Updated(Struct, frozen=True, kw_only=True):
    """What an update did."""

    metrics: UpdateMetrics
    """Of the whole group."""
    warnings: tuple[str, ...] = ()
    """What was logged as a warning."""
    total: float = 0.0
    """Sum of the weights that this process holds whole, as all others should hold them to the bit; 0 where they are spread."""


class Fault(Struct, frozen=True, kw_only=True):
    """An error that a process answers with."""

    kind: str
    """Name of its class."""
    message: str
    """What it says."""


KNOWN = {kind.__name__: kind for kind in (ConfigError, MismatchError, TrainingError, Untrainable)}
"""Errors that come back as what they were."""

OK, FAULT = "ok", "fault"
"""Names of replies."""


def to_bytes(state: object) -> bytes:
    """A state as bytes; tensors of GPUs come back on the CPU."""
    packed = io.BytesIO()
    torch.save(state, packed)
    return packed.getvalue()


def from_bytes(body: bytes) -> dict[str, Any]:
    """The state in `to_bytes`, on the CPU."""
    return cast("dict[str, Any]", torch.load(io.BytesIO(body), map_location="cpu", weights_only=True))


def write_frame(pipe: IO[bytes], name: str, body: bytes) -> None:
    """Sends a frame.

    Raises:
        OSError: nobody reads any more.
    """
    encoded = name.encode()
    pipe.write(_LENGTHS.pack(len(encoded), len(body)))
    pipe.write(encoded)
    pipe.write(body)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> tuple[str, bytes] | None:
    """The next frame; None when the other end is gone, in the middle of one or not."""
    head = _exactly(pipe, _LENGTHS.size)
    if head is None:
        return None
    named, long = _LENGTHS.unpack(head)
    name, body = _exactly(pipe, named), _exactly(pipe, long)
    return None if name is None or body is None else (name.decode(), body)


def _exactly(pipe: IO[bytes], count: int) -> bytes | None:
    pieces = bytearray()
    while len(pieces) < count:
        piece = pipe.read(min(PIECE, count - len(pieces)))
        if not piece:
            return None
        pieces += piece
    return bytes(pieces)
