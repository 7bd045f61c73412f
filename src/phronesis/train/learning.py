"""What a run asks of whatever turns its batches into new weights: a learner in this process, or a group of processes."""

from __future__ import annotations

from typing import Any, Protocol

from phronesis.models.lora import Adapters
from phronesis.records import Batch
from phronesis.train.results import UpdateMetrics


class Learns(Protocol):
    """Changes the weights of a decoder that is given when it is made."""

    @property
    def adapters(self) -> Adapters | None:
        """What alone is trained; None trains all weights."""
        ...

    def update(self, batch: Batch) -> UpdateMetrics:
        """Learns from a batch; the decoder holds the new weights when it returns.

        Raises:
            TrainingError: numbers that cannot be right, or a process that died; the decoder has its weights of before.
        """
        ...

    def abandon(self) -> None:
        """Ends an update that goes on in another thread, with TrainingError; the learner is of no further use."""
        ...

    def state(self) -> dict[str, Any]:
        """All that a checkpoint must keep besides the weights, on the CPU and whole, whoever holds it."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a `state` of a learner with the same config, held by any number of processes."""
        ...

    def close(self) -> None:
        """Ends what it runs besides this process. May be called twice."""
        ...
