"""A bucket: named tensors and their version in one contiguous buffer, written once and read without copying.

    0   8  magic ``PHRWGT01``            48     list: JSON ``[[name, dtype, [size, ...]], ...]``
    8   8  length of the list, bytes      .     zeros up to a multiple of 64
    16  8  version                        .     the tensors in that order, each from a multiple of 64 on
    24  8  length of everything, bytes    .     zeros up to a multiple of 64
    32 16  checksum of all before and behind it

Numbers are little-endian and unsigned. Where a tensor lies follows from the list, so no list can make two overlap.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from phronesis.engine.weights.checksum import CHECKSUM_BYTES, checksum
from phronesis.errors import ConfigError, WeightsError

MAGIC = b"PHRWGT01"
ALIGN = 64
"""Bytes: a cache line, and the widest vector a processor loads."""
DTYPES = {
    str(t).removeprefix("torch."): t
    for t in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip
"""Types a bucket can hold, by name."""
_PREFIX = struct.Struct(f"<8sQQQ{CHECKSUM_BYTES}s")
_LIST = msgspec.json.Decoder(list[tuple[str, str, tuple[int, ...]]])

Memory = bytes | bytearray | memoryview
"""What a bucket lies in; also anything else with the buffer protocol, wrapped as `memoryview(it)`."""
Named = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]
"""Tensors by name, e.g. ``model.named_parameters()``."""


@dataclass(frozen=True)
class Bucket:
    """What a buffer holds."""

    version: int
    """Number of weight updates behind the tensors."""
    tensors: dict[str, Tensor]
    """Views of the buffer, in the order packed. They keep it alive, and must not be written where it is read-only."""
    nbytes: int
    """Length of the bucket, which may be less than that of the buffer."""


class Layout:
    """Where the tensors of one model lie in a bucket; made once, used for every push.

    >>> layout = Layout({"w": torch.ones(2, 3), "b": torch.zeros(3)})
    >>> layout.nbytes
    256
    """

    def __init__(self, named: Named, dtype: torch.dtype | None = None):
        """Only names, types and shapes are kept.

        Args:
            named: the tensors.
            dtype: floating-point tensors are packed as this, e.g. `torch.bfloat16` for half the bytes; None keeps theirs.

        Raises:
            ConfigError: two tensors of one name, or a type that a bucket cannot hold.
        """
        if dtype is not None and not dtype.is_floating_point:
            raise ConfigError(f"floating-point tensors cannot be packed as {_name(dtype)}; choose e.g. torch.bfloat16")
        rows: list[tuple[str, torch.dtype, tuple[int, ...]]] = []
        for name, tensor in _pairs(named):
            kept = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            if _name(kept) not in DTYPES:
                raise ConfigError(f"tensor {name!r} is {_name(kept)}, which a bucket cannot hold; known: {', '.join(DTYPES)}")
            rows.append((name, kept, tuple(tensor.shape)))
        if len({name for name, _, _ in rows}) < len(rows):
            raise ConfigError("two tensors have the same name; a bucket holds each once")
        self.rows = tuple(rows)
        self.list = msgspec.json.encode([(name, _name(kept), shape) for name, kept, shape in rows])
        self.starts, self.nbytes = _places(len(self.list), [prod(shape) * kept.itemsize for _, kept, shape in rows])

    def pack_into(self, buffer: bytearray | memoryview, named: Named, version: int) -> int:
        """Writes the tensors' present values, from whatever device they are on; the number of bytes written.

        Args:
            buffer: at least `nbytes` long, from an address that is a multiple of 8.
            named: the same tensors as the layout was made of.
            version: number of weight updates so far, at least 0.

        Raises:
            ConfigError: other tensors, too short a buffer, or a negative version.
        """
        tensors = _pairs(named)
        found = [(name, tuple(tensor.shape)) for name, tensor in tensors]
        if found != [(name, shape) for name, _, shape in self.rows]:
            raise ConfigError("these are not the tensors the layout was made of; make a new Layout")
        if version < 0:
            raise ConfigError(f"the version must be at least 0, got {version!r}")
        whole = _lend(buffer)
        if whole.data_ptr() % 8:
            raise ConfigError("the buffer begins at an odd address; begin at a multiple of 8")
        if whole.numel() < self.nbytes:
            raise ConfigError(f"the buffer has {whole.numel()} bytes, the tensors need {self.nbytes}")
        end = _PREFIX.size + len(self.list)
        whole[_PREFIX.size : end] = _lend(self.list)
        with torch.no_grad():
            for (_, kept, shape), start, (_, tensor) in zip(self.rows, self.starts, tensors, strict=True):
                whole[end:start] = 0
                end = start + prod(shape) * kept.itemsize
                _view(whole, start, end, kept, shape).copy_(tensor)
        whole[end : self.nbytes] = 0
        head = (MAGIC, len(self.list), version, self.nbytes)
        whole[: _PREFIX.size] = _lend(_PREFIX.pack(*head, bytes(CHECKSUM_BYTES)))
        whole[_PREFIX.size - CHECKSUM_BYTES : _PREFIX.size] = _lend(_checksum(whole[: self.nbytes]))
        return self.nbytes


def pack(named: Named, version: int, dtype: torch.dtype | None = None) -> memoryview:
    """A bucket of the tensors, in memory of its own.

    Args:
        named: the tensors; a tensor under two names is packed twice, so give `model.named_parameters()`, which names it once.
        version: number of weight updates so far, at least 0.
        dtype: floating-point tensors are packed as this, e.g. `torch.bfloat16` for half the bytes; None keeps theirs.

    Raises:
        ConfigError: see `Layout`.

    >>> bucket = unpack(pack({"w": torch.tensor([1.5, 2.0])}, version=7))
    >>> bucket.version, bucket.tensors["w"].tolist()
    (7, [1.5, 2.0])
    """
    tensors = _pairs(named)
    layout = Layout(tensors, dtype)
    room = memoryview(torch.empty(layout.nbytes, dtype=torch.uint8).numpy().data)
    layout.pack_into(room, tensors, version)
    return room


def unpack(buffer: Memory, *, check: bool = True) -> Bucket:
    """Reads a bucket where it lies; only from an address that is no multiple of 8 it is copied.

    Args:
        buffer: begins with a bucket; what follows it is ignored.
        check: whether the checksum is computed, at the speed of one read of the memory.

    Raises:
        WeightsError: no bucket, a truncated or damaged one, or one of a format this version does not know.
    """
    whole = _lend(buffer)
    if whole.data_ptr() % 8:
        whole = whole.clone()
    if whole.numel() < _PREFIX.size:
        raise WeightsError(f"{whole.numel()} bytes are no bucket of weights; the head alone has {_PREFIX.size}")
    magic, list_bytes, version, nbytes, given = _PREFIX.unpack(whole[: _PREFIX.size].numpy().tobytes())
    if magic != MAGIC:
        raise WeightsError(f"the buffer begins with {magic!r}, a bucket of weights with {MAGIC!r}")
    if nbytes > whole.numel():
        raise WeightsError(f"the bucket is truncated: it has {nbytes} bytes, {whole.numel()} are here")
    if nbytes < _PREFIX.size + list_bytes:
        raise WeightsError(f"the bucket's list of {list_bytes} bytes does not fit its {nbytes} bytes")
    if version >= 2**63:
        raise WeightsError(f"version {version} is no number of updates")
    rows = _rows(whole[_PREFIX.size : _PREFIX.size + list_bytes].numpy().tobytes())
    starts, needed = _places(list_bytes, [prod(shape) * kept.itemsize for _, kept, shape in rows])
    if needed != nbytes:
        raise WeightsError(f"the listed tensors need {needed} bytes, the bucket has {nbytes}")
    whole = whole[:nbytes]
    if check and _checksum(whole) != given:
        raise WeightsError(f"the bucket of version {version} is damaged: its checksum does not match; send it again")
    tensors = {
        name: _view(whole, start, start + prod(shape) * kept.itemsize, kept, shape)
        for start, (name, kept, shape) in zip(starts, rows, strict=True)
    }
    return Bucket(version, tensors, nbytes)


def load_into(model: nn.Module, bucket: Bucket, *, partial: bool = False) -> int:
    """Copies the tensors into a model's parameters of the same names, on whatever device and of whatever type these are.

    Nothing is copied before everything is known to fit.

    Args:
        model: whose `named_parameters` are written.
        bucket: of the same model.
        partial: whether parameters that the bucket does not name keep their values, e.g. under adapters.

    Returns:
        The bucket's version.

    Raises:
        WeightsError: names the tensor that the model lacks, that the bucket lacks, or that has another shape.
    """
    own = dict(model.named_parameters())
    if alien := [name for name in bucket.tensors if name not in own]:
        raise WeightsError(f"the model has no parameter {alien[0]!r} ({len(alien)} such); these are another model's weights")
    if not partial and (missing := [name for name in own if name not in bucket.tensors]):
        raise WeightsError(f"the bucket lacks {missing[0]!r} ({len(missing)} such); load with partial=True to keep the model's")
    for name, tensor in bucket.tensors.items():
        if tensor.shape != own[name].shape:
            raise WeightsError(f"{name!r} is {list(tensor.shape)} in the bucket and {list(own[name].shape)} in the model")
    with torch.no_grad():
        for name, tensor in bucket.tensors.items():
            own[name].copy_(tensor)
    return bucket.version


def _pairs(named: Named) -> list[tuple[str, Tensor]]:
    return list(cast("Iterable[tuple[str, Tensor]]", named.items() if isinstance(named, Mapping) else named))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _places(list_bytes: int, sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where each tensor starts, and where the bucket ends."""
    starts: list[int] = []
    end = _PREFIX.size + list_bytes
    for size in sizes:
        starts.append(-(-end // ALIGN) * ALIGN)
        end = starts[-1] + size
    return starts, -(-end // ALIGN) * ALIGN


def _rows(text: bytes) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    try:
        rows = _LIST.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"the bucket's list of tensors cannot be read: {error}") from error
    for name, dtype, shape in rows:
        if dtype not in DTYPES:
            raise WeightsError(f"tensor {name!r} is of type {dtype!r}; known: {', '.join(DTYPES)}")
        if not all(0 <= n < 2**48 for n in shape):
            raise WeightsError(f"tensor {name!r} has shape {list(shape)}")
    if len({name for name, _, _ in rows}) < len(rows):
        raise WeightsError("the bucket names a tensor twice")
    return [(name, DTYPES[dtype], shape) for name, dtype, shape in rows]


def _view(whole: Tensor, start: int, end: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if start == end:
        return torch.empty(shape, dtype=dtype)
    return whole[start:end].view(dtype).view(shape)


def _checksum(whole: Tensor) -> bytes:
    """Of everything but the checksum's own place."""
    cut = _PREFIX.size - CHECKSUM_BYTES
    head = torch.cat([whole[:cut], whole.new_zeros(CHECKSUM_BYTES), whole[_PREFIX.size : ALIGN]])
    return checksum(whole[ALIGN:].view(torch.int64), head.numpy().tobytes())


class _Lent:
    """Lends memory to numpy as writable whatever its owner says: torch would warn of a view that is not, and copies nothing."""

    def __init__(self, owner: Memory):
        found = np.frombuffer(owner, np.uint8)
        self.owner = owner
        self.__array_interface__ = {"version": 3, "data": (found.ctypes.data, False), "shape": found.shape, "typestr": "|u1"}


def _lend(buffer: Memory) -> Tensor:
    """The buffer as bytes `[N]`, a view."""
    if memoryview(buffer).nbytes == 0:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_numpy(np.asarray(_Lent(buffer)))  # pyright: ignore[reportUnknownMemberType]
