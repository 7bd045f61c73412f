"""The compiled step behind the engine's arithmetic: all layers, the head and the draw of a block of rows in one call.

Operator overhead, attention layout and sampling dominate small models; here weights stay in the processor's cache and
nothing is launched. All weights are copied into the step's own order at `bind`, which costs a few decoded tokens, and only
then: between two binds nothing the learner does is seen. Rows are independent, so threads take blocks of rows and never wait
for one another, while the weights stay in each one's cache. Where they do not fit, or there are not rows enough, threads form
a team: together through the same rows, each with its own panels of the weights and its own rows or heads of the attention, so
that every weight is read by one of them. Bits do not depend on it. Calls from several threads take turns.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import accumulate, pairwise
from threading import Lock
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phronesis.engine.cache import KVCache
from phronesis.engine.compute import Drawn, Inputs
from phronesis.engine.forward import Forward, Piece
from phronesis.engine.native.build import built
from phronesis.engine.rows import Rows
from phronesis.engine.sampler import draw
from phronesis.errors import ConfigError
from phronesis.models.decoder import Decoder

MOST_PARAMETERS = 1 << 25
"""Larger models gain little (their products dominate) and would keep a second copy of many weights."""
FEWEST_ROWS = 8
"""A thread is worth its start for at least this many rows."""
TEAM_PARAMETERS = 6 << 20
"""A model of this size is read from memory in every step, so that threads had better share the reading."""
TEAM_ALONE = 2 << 20
"""The same where rows are so few that only one thread would work."""
SMALL_PART = 64
"""Prompts are cut between sequences into parts of at least so many tokens,"""
PARTS = 8
"""and into so many for each thread, that whoever is ready takes the next one."""
UNFAIR = 1.15
"""A team computes prompts when otherwise one thread would have so many times its share,"""
TEAM_WORK = 1 << 25
"""and tokens times parameters are at least this."""
MOST_THREADS = 16
"""Of a team; the same in `step.c`."""
ORDER = 2
"""Number of the order in which the compiled step adds; counted up whenever the last bits of results change."""
LINE = 16
"""Numbers of four bytes the processor's cache moves at once."""
POOL = 1 << 23
"""Numbers asked for at once for the copy of the weights; what is not used is never touched."""

_I64, _F32, _PTR = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_LAYER = (
    "attn_norm", "qkv", "qkv_bias", "qk_scale", "o", "o_bias", "mlp_norm", "gate_up", "gate_up_bias", "down", "down_bias",
)  # fmt: skip


class _LayerStruct(ctypes.Structure):
    _fields_ = [(name, _PTR) for name in _LAYER]


class _ModelStruct(ctypes.Structure):
    _fields_ = [
        *((name, _I64) for name in ("layers", "width", "heads", "kv_heads", "head_dim", "mlp", "vocab")),
        ("eps", _F32),
        ("qk_norm", ctypes.c_int32),
        ("layer", ctypes.POINTER(_LayerStruct)),
        *((name, _PTR) for name in ("embed", "final_norm", "head", "cos", "sin")),
    ]


class _CacheStruct(ctypes.Structure):
    _fields_ = [("keys", _PTR), ("values", _PTR), ("slots", _I64), ("capacity", _I64), ("origin", _PTR), ("shared", _PTR)]


_DRAW = ("temperature", "uniform", "greedy", "force", "ids", "logprobs", "entropies", "logits", "stops", "left")


class _DrawStruct(ctypes.Structure):
    _fields_ = [*((name, _PTR) for name in (*_DRAW, "over")), ("steps", _I64), ("stop_count", _I64)]


class _Tokens(NamedTuple):
    """What is computed, `[N]` each, contiguous; a step may change the first two."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    slots: NDArray[np.int64]


class _Wanted(NamedTuple):
    """Arrays of a draw, one entry per row, contiguous."""

    temperature: NDArray[np.float32]
    uniform: NDArray[np.float32]
    """`[A, N]`, as are ids, logprobs and entropies."""
    greedy: NDArray[np.bool_]
    force: NDArray[np.int64]
    ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    entropies: NDArray[np.float32]
    logits: NDArray[np.float32] | None
    """`[A, V]`, only when somebody wants them."""
    stops: NDArray[np.int64]
    """`[A, n]`."""
    left: NDArray[np.int64]

    def part(self, at: int, over: NDArray[np.int32]) -> _DrawStruct:
        """Pointers to the rows from `at` on; `over` tells other parts that a row has ended."""
        arrays = (None if a is None else a.ctypes.data + at * a.strides[0] for a in self)
        return _DrawStruct(*arrays, over.ctypes.data, self.uniform.shape[1], self.stops.shape[1])


def obstacle(decoder: Decoder) -> str | None:
    """Why the compiled step cannot run this decoder; None when it can."""
    size = sum(p.numel() for p in decoder.parameters())
    for name, p in decoder.named_parameters():
        if p.device.type != "cpu":
            return f"{name} is on {p.device}, the compiled step runs on the CPU"
        if p.dtype != torch.float32:
            return f"{name} is {p.dtype}, the compiled step computes in float32"
    if size > MOST_PARAMETERS:
        return f"the model has {size} parameters, more than {MOST_PARAMETERS}"
    found = built()
    return None if found.library is not None else found.note


class NativeCompute:
    """Implements `Compute` for float32 decoders on the CPU, see `obstacle`."""

    at_once = 1 << 14

    def __init__(self, decoder: Decoder):
        library = built().library
        assert library is not None, "ask `obstacle` first"
        self.decoder = decoder
        self._step, self._pack = library.phronesis_step, library.phronesis_pack
        self._step.argtypes = [_PTR, _PTR, _I64, _PTR, _PTR, _PTR, _PTR, _PTR, _I64, _PTR, _PTR, _I64, _I64]
        self._step.restype = _I64
        self._pack.argtypes, self._pack.restype = [_PTR, _I64, _I64, _PTR], None
        self._packed_size, self._scratch_size = library.phronesis_packed, library.phronesis_scratch
        self._packed_size.argtypes, self._packed_size.restype = [_I64, _I64], _I64
        self._scratch_size.argtypes, self._scratch_size.restype = [_PTR, _I64], _I64
        self._large = library.phronesis_large
        self._large.argtypes, self._large.restype = [_PTR, _I64], None
        self._group = cast("int", library.phronesis_group())
        self.name = f"native-{library.phronesis_lanes()}.{ORDER}"
        self._forward = Forward(decoder)
        self._held: dict[str, NDArray[np.float32]] = {}
        self._pool = np.zeros(0, np.float32)
        self._turns: tuple[Tensor, Tensor] | None = None
        self._scratch: list[NDArray[np.float32]] = []
        self._threads: ThreadPoolExecutor | None = None
        self._turn = Lock()
        c = decoder.config
        self._layers = (_LayerStruct * c.layers)()
        self._model = _ModelStruct(
            c.layers, c.width, c.heads, c.kv_heads, c.head_dim, c.mlp_width, c.vocab_size, c.norm_eps, int(c.qk_norm),
            self._layers,
        )  # fmt: skip
        self._size = sum(p.numel() for p in decoder.parameters())
        self._load()

    def cache(self) -> KVCache:
        """An empty cache with the blocks of keys that the step wants."""

        def prepare(part: Tensor) -> None:
            self._large(part.data_ptr(), part.nbytes)

        return KVCache(self.decoder.config, torch.float32, self.decoder.device, self._group, prepare)

    def bind(self) -> None:
        """The decoder's weights changed.

        Raises:
            ConfigError: they are not what they were: another type, device or shape. Nothing was read.
        """
        reason = obstacle(self.decoder)
        if reason is not None:
            raise ConfigError(f"the engine cannot take the new weights: {reason}; make a new engine")
        with self._turn:
            self._forward.bind()
            self._load()

    def fill(self, cache: KVCache, pieces: list[Piece]) -> None:
        """Computes keys and values of prompt tokens."""
        self._pieces(cache, pieces, None)

    def next(self, cache: KVCache, inputs: Inputs, rows: Rows) -> Drawn:
        """Enters one token per running slot into the cache and draws what follows it, as often as `Compute.next` allows."""
        count, vocab = len(inputs.slots), self.decoder.config.vocab_size
        temperature, greedy, filtered = rows.plain(inputs.slots)
        logits = np.empty((count, vocab), np.float32) if len(filtered) else None
        uniform = np.ascontiguousarray(inputs.uniform[:, :1] if len(filtered) else inputs.uniform)
        shape = uniform.shape
        wanted = _Wanted(
            temperature, uniform, greedy, inputs.force,
            np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty(shape, np.float32), logits,
            rows.stops[inputs.slots], inputs.left,
        )  # fmt: skip
        team = self._team(count)
        share = -(-count // min(torch.get_num_threads(), max(1, count // FEWEST_ROWS)))
        cuts = [0, count] if team > 1 else [*range(0, count, share), count]
        made = self._run(cache, _Tokens(inputs.tokens.copy(), inputs.at.copy(), inputs.slots), wanted, cuts, team)
        if logits is not None:
            settings = rows.settings_of(inputs.slots[filtered], vocab, self.decoder.device)
            part = [torch.as_tensor(a[filtered]) for a in (logits, uniform[:, 0], inputs.force)]
            drawn = draw(part[0], part[1], settings, part[2])
            for array, values in zip((wanted.ids, wanted.logprobs, wanted.entropies), drawn, strict=True):
                array[filtered, 0] = values.numpy()
        return Drawn(wanted.ids, wanted.logprobs, wanted.entropies, np.repeat(made, np.diff(cuts)))

    def score(self, cache: KVCache, pieces: list[Piece], targets: NDArray[np.int64], temperature: float) -> NDArray[np.float32]:
        """`fill`, and the nats of the ids that follow each token `[N]`."""
        count = len(targets)
        wanted = _Wanted(
            np.full(count, temperature or 1.0, np.float32), np.full((count, 1), 0.5, np.float32), np.zeros(count, np.bool_),
            targets, np.empty(count, np.int64), np.empty(count, np.float32), np.empty(count, np.float32), None,
            np.empty((count, 0), np.int64), np.ones(count, np.int64),
        )  # fmt: skip
        self._pieces(cache, pieces, wanted)
        return wanted.logprobs

    def _pieces(self, cache: KVCache, pieces: list[Piece], wanted: _Wanted | None) -> None:
        """Runs the tokens of pieces; a piece stays on one thread, unless they cannot be shared out evenly."""
        if not pieces:
            return
        tokens = np.array([i for p in pieces for i in p.ids], np.int64)
        slots = np.array([p.slot for p in pieces for _ in p.ids], np.int64)
        positions = np.array([i for p in pieces for i in range(p.start, p.start + len(p.ids))], np.int64)
        count, threads = len(tokens), torch.get_num_threads()
        cuts, least = [0], max(SMALL_PART, count // (PARTS * threads))
        for end in accumulate(len(p.ids) for p in pieces):
            if end - cuts[-1] >= least or end == count:
                cuts.append(end)
        loads = [0] * threads  # what each would do if all were as fast
        for at, end in pairwise(cuts):
            loads[loads.index(min(loads))] += end - at
        unfair = max(loads) * threads > UNFAIR * count and count * self._size >= TEAM_WORK
        team = min(threads, MOST_THREADS) if unfair else 1
        self._run(cache, _Tokens(tokens, positions, slots), wanted, [0, count] if team > 1 else cuts, team)

    def _team(self, count: int) -> int:
        """Threads that go through the same rows together in a step."""
        alone = count < 2 * FEWEST_ROWS
        return min(torch.get_num_threads(), MOST_THREADS) if self._size >= (TEAM_ALONE if alone else TEAM_PARAMETERS) else 1

    def _run(self, cache: KVCache, given: _Tokens, wanted: _Wanted | None, cuts: list[int], team: int) -> list[int]:
        """The step over rows, cut into parts that may run at the same time, or as one part by a team; how many ids each part
        drew for its rows."""
        with self._turn:
            held = _CacheStruct(
                cache.keys.data_ptr(), cache.values.data_ptr(), cache.slots, cache.capacity,
                cache.origin.ctypes.data, cache.shared.ctypes.data,
            )  # fmt: skip
            made = [0] * (len(cuts) - 1)
            parts = iter(range(len(made)))
            threads = team if team > 1 else min(torch.get_num_threads(), len(made))
            self._reserve(cache.capacity, threads)
            over = np.zeros(1, np.int32)
            shared = np.zeros((len(made), (team + 2) * LINE), np.int64)

            def call(thread: int, part: int) -> None:
                at, end = cuts[part], cuts[part + 1]
                sought = None if wanted is None else wanted.part(at, over)
                scratch, common = self._scratch[thread], self._scratch[0 if team > 1 else thread]
                drew = cast(
                    "int",
                    self._step(
                        ctypes.byref(self._model),
                        ctypes.byref(held),
                        end - at,
                        *(8 * at + a.ctypes.data for a in given),
                        None if sought is None else ctypes.byref(sought),
                        scratch.ctypes.data,
                        scratch.size,
                        common.ctypes.data,
                        shared[part].ctypes.data,
                        team,
                        thread if team > 1 else 0,
                    ),
                )
                assert drew >= 0, f"part {part} has {scratch.size} floats of scratch memory, which is too little"
                made[part] = drew

            def work(thread: int) -> None:
                if team > 1:
                    call(thread, 0)
                else:
                    for part in parts:  # whoever is ready takes the next
                        call(thread, part)

            self._together(work, threads)
            return made

    def _together(self, work: Callable[[int], None], threads: int) -> None:
        """Calls `work` with each number below `threads`, at the same time."""
        if threads == 1:
            return work(0)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), "phronesis-step")
        others: list[Future[None]] = []
        try:
            others += [self._threads.submit(work, n) for n in range(1, threads)]
            work(0)
        finally:
            wait(others)  # whatever happens here, nobody may still write into what the caller frees
        for other in others:
            other.result()

    def _take(self, size: int) -> NDArray[np.float32]:
        """Memory for weights, in large pages, aligned to a line: what is asked for in turn lies together."""
        if self._pool.size < size:
            self._pool = self._zeros(max(size, POOL))
        taken, self._pool = self._pool[:size], self._pool[-(-size // LINE) * LINE :]
        return taken

    def _zeros(self, size: int) -> NDArray[np.float32]:
        """Zeros in large pages, aligned to a line."""
        fresh = np.zeros(size + LINE, np.float32)
        self._large(fresh.ctypes.data, fresh.nbytes)
        return fresh[-fresh.ctypes.data // 4 % LINE :][:size]

    def _reserve(self, capacity: int, parts: int) -> None:
        """Tables of rotations up to the capacity, and memory for each part."""
        if self._turns is None or self._turns[0].shape[0] < capacity:
            positions = torch.arange(capacity, device=self.decoder.device)
            cos, sin = (t.contiguous() for t in self.decoder.rotary(positions))
            self._turns = (cos, sin)
            self._model.cos, self._model.sin = cos.data_ptr(), sin.data_ptr()
        size = cast("int", self._scratch_size(ctypes.byref(self._model), capacity))
        for n in range(parts):
            if n == len(self._scratch):
                self._scratch.append(self._zeros(size))
            elif self._scratch[n].size < size:  # the caches of running requests and of scoring differ in capacity
                self._scratch[n] = self._zeros(size)

    def _load(self) -> None:
        """Copies the weights into the step's order."""
        f = self._forward
        for n, w in enumerate(f.layers):
            for name in _LAYER:
                tensor = getattr(w, name)
                matrix = tensor is not None and name in ("qkv", "o", "gate_up", "down")
                setattr(self._layers[n], name, None if tensor is None else self._hold(f"{n}.{name}", tensor, matrix))
        self._model.embed = self._hold("embed", f.embed, False)
        self._model.final_norm = self._hold("final_norm", f.final_norm, False)
        self._model.head = self._hold("head", f.head, True)

    def _hold(self, key: str, tensor: Tensor, matrix: bool) -> int:
        """Address of a copy: packed for a matrix, padded with zeros for a vector."""
        source = tensor.detach().contiguous().numpy()
        outputs, inner = source.shape if matrix else (source.size, 1)
        size = cast("int", self._packed_size(outputs, inner))
        if key not in self._held:
            self._held[key] = self._take(size)
        target = self._held[key]
        if target.size != size:
            raise ConfigError(f"the engine cannot take the new weights: {key} has another shape; make a new engine")
        if matrix:
            self._pack(source.ctypes.data, outputs, inner, target.ctypes.data)
        else:
            target[: source.size] = source.reshape(-1)
        return target.ctypes.data
