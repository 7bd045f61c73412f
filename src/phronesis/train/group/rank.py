"""One process of a learner group. ``python -m phronesis.train.group.rank`` serves a `Rank` over its standard input and output.

A `Rank` does not know how bytes reach it, so an actor of a cluster can hold one as well. All processes of a group are asked the
same things in the same order. The rule the program keeps: it ends when the pipe from the run closes, whatever it is doing.
"""

from __future__ import annotations

import logging
import mmap
import os
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from phronesis.engine.weights import bucket
from phronesis.errors import PhronesisError, TrainingError
from phronesis.models.decoder import Decoder
from phronesis.records import Batch
from phronesis.train.group import together, wire
from phronesis.train.learner import Learner
from phronesis.train.sharded import whole, whole_tree


class Rank:
    """A learner that is held together with the other ranks. Answers of ranks but the first may be empty."""

    def __init__(self) -> None:
        self.rank = 0
        self.device = torch.device("cpu")
        self._learner: Learner | None = None
        self._layout: bucket.Layout | None = None
        self._shared: memoryview | None = None
        self._said: list[str] = []
        logging.getLogger("phronesis").addHandler(_Listening(self._said))

    def setup(
        self,
        rank: int,
        world: int,
        address: str,
        *,
        backend: str | None = None,
        threads: int | None = None,
        timeout: float = 1800.0,
    ) -> None:
        """Joins the group; returns when all have.

        Args:
            rank: this process's number, from 0.
            world: how many there are.
            address: ``host:port`` of the `store` they meet at.
            backend: gloo or nccl; None takes nccl where the machine has a GPU for every process, else gloo.
            threads: it computes with; None leaves torch's choice.
            timeout: seconds any exchange may take.
        """
        host, _, port = address.rpartition(":")
        if threads is not None:
            torch.set_num_threads(threads)
        if backend is None:
            backend = "nccl" if torch.cuda.is_available() and torch.cuda.device_count() >= world else "gloo"
        if backend == "nccl":
            self.device = torch.device("cuda", rank % torch.cuda.device_count())
            torch.cuda.set_device(self.device)
        elif host in ("127.0.0.1", "localhost") and sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo asks for the address of the host's name
        span = timedelta(seconds=timeout)
        meeting = dist.TCPStore(host, int(port), is_master=False, timeout=span)  # pyright: ignore[reportPrivateImportUsage]
        self.rank = rank
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if backend == "nccl" else backend, store=meeting, rank=rank, world_size=world, timeout=span
        )

    def begin(self, body: bytes) -> None:
        """Makes the learner.

        Args:
            body: a `phronesis.train.group.wire.Beginning`.
        """
        given = msgspec.msgpack.decode(body, type=wire.Beginning)
        decoder = Decoder(given.model)
        self._layout = bucket.Layout(decoder.named_parameters())
        if given.shared is not None:
            with Path(given.shared).open("r+b") as file:
                self._shared = memoryview(mmap.mmap(file.fileno(), 0))
        bucket.load_into(decoder, bucket.unpack(given.weights if self._shared is None else self._shared))
        decoder = decoder.to(self.device)
        if given.method == "fsdp":
            decoder = together.shard(decoder, self.device)
        self._learner = Learner(decoder, given.learner, peers=together.peers_of(given.method, self.device))

    def update(self, body: bytes) -> bytes:
        """Learns from a batch; where memory is shared, the new weights lie there when all have answered.

        Args:
            body: a `Batch` as MessagePack.

        Returns:
            A `phronesis.train.group.wire.Updated`.

        Raises:
            TrainingError, MismatchError: see `Learner.update`. The other processes then wait for one that does not come: the
                group is of no further use and must be ended.
        """
        learner = self._held()
        self._said.clear()
        metrics = learner.update(msgspec.msgpack.decode(body, type=Batch))
        if metrics.steps and self._shared is not None:
            weights = self._weights()
            if weights is not None and self._layout is not None:
                self._layout.pack_into(self._shared, weights, learner.updates)
        held = [p.detach() for p in learner.decoder.parameters() if not hasattr(p, "full_tensor")]
        total = float(sum(p.sum(dtype=torch.float64) for p in held))
        return msgspec.msgpack.encode(wire.Updated(metrics=metrics, warnings=tuple(self._said), total=total))

    def weights(self) -> bytes:
        """A bucket of the present weights (`phronesis.engine.weights`); empty from other ranks than the first."""
        weights = self._weights()
        return b"" if weights is None else bytes(bucket.pack(weights, self._held().updates))

    def state(self) -> bytes:
        """`Learner.state`, whole and on the CPU, as `torch.save` writes it; empty from other ranks than the first."""
        state = whole_tree(self._held().state())
        return wire.to_bytes(state) if self.rank == 0 else b""

    def restore(self, body: bytes) -> None:
        """Continues from a `state`, of a group of any size or of one process."""
        self._held().restore(wire.from_bytes(body))

    def _weights(self) -> dict[str, Tensor] | None:
        """The present weights, whole, where this is the first rank."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._held().decoder.named_parameters():
            full = whole(parameter.detach())
            if self.rank == 0:
                found[name] = full
        return found if self.rank == 0 else None

    def _held(self) -> Learner:
        if self._learner is None:
            raise TrainingError("this process of the learner group was asked for something before `begin`")
        return self._learner


class _Listening(logging.Handler):
    """Keeps warnings, to be told to the run."""

    def __init__(self, said: list[str]):
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one."""
        self._said.append(record.getMessage())


def answers(rank: Rank) -> dict[str, Callable[[bytes], bytes | None]]:
    """What a rank can be asked for, by name."""
    return {
        "setup": lambda body: _setup(rank, body),
        "begin": rank.begin,
        "update": rank.update,
        "weights": lambda _: rank.weights(),
        "state": lambda _: rank.state(),
        "restore": rank.restore,
    }


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Answers frames until there are no more, then ends the process."""
    requests: SimpleQueue[tuple[str, bytes]] = SimpleQueue()
    threading.Thread(target=_listen, args=(source, requests), daemon=True).start()
    asked = answers(Rank())
    while True:
        name, body = requests.get()
        try:
            answer = asked[name](body) or b""
        except Exception as error:  # told to the run, which ends the group
            traceback.print_exc()
            kind = type(error).__name__ if isinstance(error, PhronesisError) else ""
            fault = wire.Fault(kind=kind, message=str(error) if kind else f"{type(error).__name__}: {error}")
            wire.write_frame(sink, wire.FAULT, msgspec.msgpack.encode(fault))
        else:
            wire.write_frame(sink, wire.OK, answer)


def _setup(rank: Rank, body: bytes) -> None:
    given = msgspec.msgpack.decode(body, type=wire.Joining)
    rank.setup(given.rank, given.world, given.address, backend=given.backend, threads=given.threads, timeout=given.timeout)


def _listen(source: IO[bytes], requests: SimpleQueue[tuple[str, bytes]]) -> None:
    """Reads requests; when the run is gone, ends the process in the middle of whatever it does."""
    while (frame := wire.read_frame(source)) is not None:
        requests.put(frame)
    os._exit(0)


def main() -> None:
    """The program: frames keep the standard input and output to themselves, whatever libraries print goes to the errors."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    serve(source, sink)


if __name__ == "__main__":
    main()
