"""Coefficients of a loss that move during a run, and their state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from phronesis.losses import Coefficients, LossConfig


class Controller:
    """Follows what each optimiser step measured. Without an adaptive part the coefficients stay as configured."""

    def __init__(self, loss: LossConfig):
        kl, target = loss.kl, loss.entropy_target
        self._kl_target, self._entropy_target = None if kl is None else kl.adaptive, target
        self._kl = 0.0 if kl is None else kl.coef
        self._entropy = loss.entropy_bonus
        self._applies = False  # no entropy has been seen before the first step

    @property
    def coefficients(self) -> Coefficients:
        """For the next step; None where nothing moves."""
        return Coefficients(
            kl=None if self._kl_target is None else self._kl,
            entropy=None if self._entropy_target is None else (self._entropy if self._applies else 0.0),
        )

    def observe(self, means: Mapping[str, float], sequences: int) -> None:
        """Moves the coefficients after a step.

        Args:
            means: the loss's `sums`: ``ref_kl`` and ``entropy`` are read, nats.
            sequences: sequences of the step.
        """
        if self._kl_target is not None and "ref_kl" in means:
            self._kl = self._kl_target.adapt(self._kl, means["ref_kl"], sequences)
        if self._entropy_target is not None and "entropy" in means:
            self._entropy = self._entropy_target.adapt(self._entropy, means["entropy"])
            self._applies = self._entropy_target.applies(means["entropy"])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"kl": self._kl, "entropy": self._entropy, "applies": self._applies}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state`."""
        self._kl, self._entropy = float(state["kl"]), float(state["entropy"])
        self._applies = bool(state["applies"])
