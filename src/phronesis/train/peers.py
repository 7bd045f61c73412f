"""Other processes that hold the same learner, as the learner sees them.

The rule this module keeps: every process is given the same batches and plans all of them, so what each computes follows from
its number alone; only gradients, and what was measured, travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Protocol, TypeVar

from torch import Tensor

from phronesis.models.causal import LanguageModel
from phronesis.records import Batch
from phronesis.train.splitting import split

T = TypeVar("T")


class Peers(Protocol):
    """How one learner is held by one or several processes. All of them call the same methods in the same order."""

    @property
    def size(self) -> int:
        """How many processes there are, at least 1."""
        ...

    @property
    def rank(self) -> int:
        """Which of them this one is, from 0."""
        ...

    def parts(self, step: Batch, max_tokens: int) -> list[Batch]:
        """The micro-batches of an optimiser step that this process computes; equally many in every process, at least one.

        Args:
            step: the whole step.
            max_tokens: of one micro-batch.
        """
        ...

    def copy(self, decoder: LanguageModel) -> LanguageModel:
        """A copy of a decoder, spread over the processes as it is."""
        ...

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Makes every gradient the sum over all processes, where that has not happened yet."""
        ...

    def gathered(self, mine: T) -> list[T]:
        """What each process gave, in order, on this process's device."""
        ...


class Alone:
    """One process holds the learner."""

    size, rank = 1, 0

    def parts(self, step: Batch, max_tokens: int) -> list[Batch]:
        """All of the step."""
        return split(step, max_tokens)

    def copy(self, decoder: LanguageModel) -> LanguageModel:
        """A plain copy."""
        return deepcopy(decoder)

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Nothing is missing."""

    def gathered(self, mine: T) -> list[T]:
        """Its own."""
        return [mine]
