"""What it costs to give new weights to a copy that samples, against what copying memory costs on this machine.

Every way ends with the new weights in the parameters of a model in the place where they are used: in this process, or in
another one. The bound is one copy of the same bytes with one thread (`Tensor.copy_`), measured in between.
"""

from __future__ import annotations

import asyncio
import multiprocessing as mp
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import torch
from torch import nn

from bench.measure import Row, compare, quick
from phronesis.engine.weights.bucket import Layout, load_into, unpack
from phronesis.engine.weights.http import Receiver, send
from phronesis.engine.weights.shared import SharedReader, SharedWriter
from phronesis.serving import serving

SIZES = {"0.3M": (0.3e6, 41), "3M": (3e6, 69), "12M": (12e6, 69), "600M, bf16": (600e6, 226)}
"""Name -> (parameters, tensors) of a model of that size."""
REPEATS = {"0.3M": 30, "3M": 20, "12M": 10, "600M, bf16": 3}
TOKEN = "only-for-this-benchmark"
SPAWN = mp.get_context("spawn")


class Weights(nn.Module):
    """Parameters alone: as many, in as many tensors, as a model of that size has."""

    def __init__(self, parameters: float, tensors: int, dtype: torch.dtype):
        super().__init__()
        each = int(parameters) // tensors
        self.all = nn.ParameterList(nn.Parameter(torch.full((each,), 1.0, dtype=dtype)) for _ in range(tensors))

    @staticmethod
    def of(name: str) -> Weights:
        """The model called so in `SIZES`."""
        return Weights(*SIZES[name], torch.bfloat16 if "bf16" in name else torch.float32)


def once(work: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


@contextmanager
def elsewhere(name: str, way: str, *settings: object):
    """A process that takes weights in a way; gives ``(wait, what it said first)``, where `wait` returns once it has loaded."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=taker, args=(name, way, settings, theirs))
    process.start()
    try:
        first = ours.recv()
        yield ours, first
    finally:
        ours.send(None)
        process.join()


def taker(name: str, way: str, settings: tuple[object, ...], pipe: Connection) -> None:
    """Loads weights as often as it is told to; None ends it."""
    torch.set_num_threads(1)
    model = Weights.of(name)
    if way == "http":
        asyncio.run(receiving(model, pipe))
        return
    reader = SharedReader(str(settings[0])) if way == "shared" else None
    pipe.send("ready")
    while (version := pipe.recv()) is not None:
        if reader is not None:
            reader.wait(newer_than=version - 1)
            reader.load_into(model)
        else:
            from safetensors.torch import load_file

            model.load_state_dict(load_file(str(settings[0])))
        pipe.send(version)
    if reader is not None:
        reader.close()


async def receiving(model: Weights, pipe: Connection) -> None:
    """The same for weights that come over HTTP."""
    receiver = Receiver(model.named_parameters(), TOKEN)
    async with serving(receiver.app, host="127.0.0.1", port=0, setting="port") as url:
        pipe.send(url)
        while (version := await asyncio.to_thread(pipe.recv)) is not None:
            await receiver.wait(newer_than=version - 1)
            receiver.load_into(model)
            pipe.send(version)


def shared(name: str, bound: Callable[[], float]) -> list[tuple[float, float]]:
    """Through shared memory: milliseconds of a push with its bound beside it."""
    model = Weights.of(name)
    found: list[tuple[float, float]] = []
    with SharedWriter(model.named_parameters()) as writer, elsewhere(name, "shared", writer.name) as (pipe, _):

        def push(version: int) -> None:
            pipe.send(version)
            writer.push(model.named_parameters(), version)
            pipe.recv()

        for version in range(REPEATS[name] + 1):
            found.append((once(lambda v=version: push(v)), bound()))
    return found[1:]


def over_http(name: str, bound: Callable[[], float]) -> list[tuple[float, float]]:
    """Over HTTP on the loopback device."""
    model = Weights.of(name)
    layout = Layout(model.named_parameters())
    room = bytearray(layout.nbytes)

    async def main() -> list[tuple[float, float]]:
        found: list[tuple[float, float]] = []
        with elsewhere(name, "http") as (pipe, url):
            async with httpx.AsyncClient(trust_env=False, timeout=300) as client:
                for version in range(REPEATS[name] + 1):
                    start = time.perf_counter()
                    pipe.send(version)
                    layout.pack_into(room, model.named_parameters(), version)
                    await send(client, url, TOKEN, room)
                    await asyncio.to_thread(pipe.recv)
                    found.append((1000 * (time.perf_counter() - start), bound()))
        return found[1:]

    return asyncio.run(main())


def by_file(name: str, bound: Callable[[], float]) -> list[tuple[float, float]]:
    """Through a safetensors file in memory-backed space, as vLLM servers are given theirs."""
    from safetensors.torch import save_file

    model = Weights.of(name)
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="phronesis-bench-", dir=memory if memory.is_dir() else None))
    found: list[tuple[float, float]] = []
    try:
        with elsewhere(name, "file", str(folder / "w.safetensors")) as (pipe, _):

            def push(version: int) -> None:
                save_file(dict(model.state_dict()), folder / "w.safetensors")
                pipe.send(version)
                pipe.recv()

            for version in range(REPEATS[name] + 1):
                found.append((once(lambda v=version: push(v)), bound()))
    finally:
        shutil.rmtree(folder)
    return found[1:]


def in_process(name: str, bound: Callable[[], float]) -> list[tuple[float, float]]:
    """Tensor by tensor into the engine's own copy, as `Seat.push` does."""
    model, theirs = Weights.of(name), Weights.of(name)

    def push() -> None:
        with torch.no_grad():
            for there, mine in zip(theirs.parameters(), model.parameters(), strict=True):
                there.copy_(mine)

    return [(once(push), bound()) for _ in range(REPEATS[name] + 1)][1:]


def packed(name: str, bound: Callable[[], float]) -> list[tuple[float, float]]:
    """Through a bucket in this process: packed, checked, and loaded."""
    model, theirs = Weights.of(name), Weights.of(name)
    layout = Layout(model.named_parameters())
    room = bytearray(layout.nbytes)

    def push() -> None:
        layout.pack_into(room, model.named_parameters(), 1)
        load_into(theirs, unpack(room))

    return [(once(push), bound()) for _ in range(REPEATS[name] + 1)][1:]


WAYS = {
    "in one process, copied": in_process,
    "in one process, packed bucket": packed,
    "shared memory": shared,
    "HTTP, loopback": over_http,
    "file in memory, safetensors": by_file,
}


def push() -> list[Row]:
    """All rows."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, (parameters, _) in list(SIZES.items())[: 1 if quick() else None]:
        size = int(parameters) * (2 if "bf16" in name else 4)
        source = torch.ones(size, dtype=torch.uint8)
        target = torch.empty_like(source)

        def bound(source: torch.Tensor = source, target: torch.Tensor = target) -> float:
            return once(lambda: target.copy_(source))

        bound()
        for way, measure in WAYS.items():
            pairs = measure(name, bound)
            what = f"{way}: {name}, {size / 1e6:.3g} MB"
            row = compare(
                "push", what, [a for a, _ in pairs], [b for _, b in pairs], unit="ms", peer_name="one copy of the bytes"
            )
            rows.append(row)
    return rows
