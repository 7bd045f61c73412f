"""The learner of a run whose weights are held by a group of processes: sends batches, gets whole weights back.

The run keeps a decoder of its own, into which the new weights are copied after every update, so that pushing, saving,
evaluating and exporting know nothing of the group. The processes start with the first update: what was given until then (the
decoder as it is, the state of a checkpoint) is what they begin with.
"""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
from msgspec.structs import replace

from phronesis.engine.weights import bucket
from phronesis.errors import ConfigError, RankFailed, TrainingError
from phronesis.models.causal import LanguageModel
from phronesis.models.decoder import Decoder
from phronesis.records import Batch
from phronesis.train.group import wire
from phronesis.train.group.config import LearnerGroupConfig, check
from phronesis.train.group.processes import Processes, Ranks
from phronesis.train.learner import Learner
from phronesis.train.learner_config import LearnerConfig
from phronesis.train.results import UpdateMetrics

log = logging.getLogger(__name__)


class GroupLearner:
    """A `Learns` held by several processes."""

    adapters = None

    def __init__(
        self,
        decoder: LanguageModel,
        config: LearnerConfig,
        group: LearnerGroupConfig,
        *,
        start: Callable[[LearnerGroupConfig], Ranks] = Processes,
    ):
        """Nothing is started yet.

        Args:
            decoder: float32; gets the new weights after every update.
            config: as for `Learner`.
            group: how many processes, and how they hold it.
            start: starts them.

        Raises:
            ConfigError: a model or a setting that a group cannot do.
        """
        check(config)
        if not isinstance(decoder, Decoder):
            raise ConfigError(f"a learner group needs the compact decoder, which the model is not ({decoder.note})")
        self.decoder, self.config, self.group = decoder, config, group
        self._start = start
        self._layout = bucket.Layout(decoder.named_parameters())
        self._ranks: Ranks | None = None
        self._shared: mmap.mmap | None = None
        self._given: dict[str, Any] | None = None
        self._abandoned = False

    def lives(self, start: Callable[[LearnerGroupConfig], Ranks]) -> None:
        """From now on the processes are started by `start`, e.g. in a cluster; those that run already stay."""
        self._start = start

    def update(self, batch: Batch) -> UpdateMetrics:
        """See `Learns.update`."""
        began = perf_counter()
        try:
            ranks = self._held()
            answers = ranks.ask("update", msgspec.msgpack.encode(batch))
            found, *others = (msgspec.msgpack.decode(answer, type=wire.Updated) for answer in answers)
            for warning in dict.fromkeys(w for one in (found, *others) for w in one.warnings):
                log.warning("%s", warning)
            if any(one.total != found.total for one in others):
                ranks.close()
                raise RankFailed(
                    f"the processes of the learner group no longer hold the same weights (their sums: {found.total!r}, "
                    f"{', '.join(repr(one.total) for one in others)}); continue from the newest checkpoint with --resume"
                )
            if found.metrics.steps:
                arrived = memoryview(ranks.ask("weights")[0]) if self._shared is None else memoryview(self._shared)
                bucket.load_into(self.decoder, bucket.unpack(arrived))
        except TrainingError as error:
            if self._abandoned:
                raise TrainingError("the update was abandoned; continue from the newest checkpoint") from error
            raise
        return replace(found.metrics, seconds=perf_counter() - began)

    def abandon(self) -> None:
        """See `Learns.abandon`: ends the processes."""
        self._abandoned = True
        self.close()

    def state(self) -> dict[str, Any]:
        """See `Learns.state`."""
        if self._ranks is not None:
            return wire.from_bytes(self._ranks.ask("state")[0])
        if self._given is None:
            self._given = Learner(self.decoder, self.config).state()
        return self._given

    def restore(self, state: dict[str, Any]) -> None:
        """See `Learns.restore`."""
        self._given = state
        if self._ranks is not None:
            self._ranks.ask("restore", wire.to_bytes(state))

    def close(self) -> None:
        """See `Learns.close`."""
        if self._ranks is not None:
            self._ranks.close()

    def _held(self) -> Ranks:
        """The processes, which are started where they are not."""
        if self._abandoned:
            raise TrainingError("the learner was abandoned")
        if self._ranks is None:
            self._ranks = self._start(self.group)
            try:
                if self._abandoned:  # while they started
                    raise TrainingError("the learner was abandoned")
                self._begin(self._ranks)
            except BaseException:
                self._ranks.close()
                raise
        return self._ranks

    def _begin(self, ranks: Ranks) -> None:
        beginning = wire.Beginning(model=self.decoder.config, learner=self.config, method=self.group.method)
        named = dict(self.decoder.named_parameters())
        if ranks.shares_memory:
            with self._shared_file() as path:
                self._layout.pack_into(memoryview(self._shared or b""), named, 0)
                ranks.ask("begin", msgspec.msgpack.encode(replace(beginning, shared=str(path))))
        else:
            ranks.ask("begin", msgspec.msgpack.encode(replace(beginning, weights=bytes(bucket.pack(named, 0)))))
        if self._given is not None:
            ranks.ask("restore", wire.to_bytes(self._given))
            self._given = None

    @contextmanager
    def _shared_file(self) -> Generator[Path]:
        """Memory for the weights, as a file that the processes open while this lasts; it lives as long as somebody has it open.

        Raises:
            RankFailed: there is no room.
        """
        handle, path, named = _nameless()
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, self._layout.nbytes)  # a full disk is found here, not when it is written
            else:
                os.ftruncate(handle, self._layout.nbytes)
            self._shared = mmap.mmap(handle, self._layout.nbytes)
        except OSError as error:
            os.close(handle)
            if named:
                path.unlink()
            raise RankFailed(
                f"no room to share {self._layout.nbytes} bytes of weights with the learner group ({error}); free some memory"
                + (f" in {str(path.parent)!r}, or set TMPDIR to a folder with room" if named else "")
            ) from error
        try:
            yield path
        finally:
            os.close(handle)
            if named:
                path.unlink()


def _nameless() -> tuple[int, Path, bool]:
    """An empty file in memory: handle, a path by which other processes of this user open it, and whether it has a name that
    must be taken away. Linux needs none, so that nothing is left however and whenever this process is killed."""
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        handle = os.memfd_create("phronesis-weights")
        return handle, Path(f"/proc/{os.getpid()}/fd/{handle}"), False
    handle, name = tempfile.mkstemp(prefix="phronesis-weights-")
    return handle, Path(name), True
