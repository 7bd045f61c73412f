"""Sampling parameters of the running requests, by slot, ready for the sampler."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phronesis.engine.sampler import Settings
from phronesis.policy import SamplingParams


class Rows:
    """One row per slot; a slot without a request has neutral values. Tensors are built again only after a change."""

    def __init__(self) -> None:
        self._temperature = np.ones(0, np.float32)
        self._greedy = np.zeros(0, np.bool_)
        self._top_k = np.zeros(0, np.int64)
        self._top_p = np.ones(0, np.float32)
        self._min_p = np.zeros(0, np.float32)
        self.stops = np.full((0, 1), -1, np.int64)
        """Stop ids `[S, n]`, padded with −1."""
        self._built: dict[tuple[int, torch.device], Settings] = {}

    def grow(self, count: int) -> None:
        """Makes room for `count` slots."""
        more = max(0, count - len(self._greedy))
        self._temperature = np.pad(self._temperature, (0, more), constant_values=1)
        self._greedy = np.pad(self._greedy, (0, more))
        self._top_k = np.pad(self._top_k, (0, more))
        self._top_p = np.pad(self._top_p, (0, more), constant_values=1)
        self._min_p = np.pad(self._min_p, (0, more))
        self.stops = np.pad(self.stops, ((0, more), (0, 0)), constant_values=-1)

    def set(self, slot: int, params: SamplingParams | None) -> None:
        """Enters a request's parameters; None makes the row neutral."""
        p = params or SamplingParams(max_tokens=1)
        wide = len(p.stop_ids) - self.stops.shape[1]
        if wide > 0:
            self.stops = np.pad(self.stops, ((0, 0), (0, wide)), constant_values=-1)
        self._temperature[slot] = p.temperature or 1.0
        self._greedy[slot] = p.temperature == 0
        self._top_k[slot], self._top_p[slot], self._min_p[slot] = p.top_k, p.top_p, p.min_p
        self.stops[slot] = -1
        self.stops[slot, : len(p.stop_ids)] = p.stop_ids
        self._built.clear()

    def swap(self, a: int, b: int) -> None:
        """Exchanges two rows."""
        for array in (self._temperature, self._greedy, self._top_k, self._top_p, self._min_p, self.stops):
            array[[a, b]] = array[[b, a]]
        self._built.clear()

    def plain(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
        """Temperatures and greediness of some slots `[A]`, and which of them (by row) have top-k, top-p or min-p."""
        filtered = (self._top_k[slots] > 0) | (self._top_p[slots] < 1) | (self._min_p[slots] > 0)
        return self._temperature[slots], self._greedy[slots], np.flatnonzero(filtered)

    def settings_of(self, slots: NDArray[np.int64], vocab_size: int, device: torch.device) -> Settings:
        """Some slots' rows for the sampler, with every filter present."""

        def column(values: NDArray[np.generic]) -> Tensor:
            return torch.as_tensor(values[slots], device=device)[:, None]

        return Settings(
            temperature_R1=column(self._temperature),
            greedy_R=column(self._greedy)[:, 0],
            top_k_R1=column(np.where(self._top_k == 0, vocab_size, self._top_k)),
            top_p_R1=column(self._top_p),
            min_p_R1=column(self._min_p),
        )

    def settings(self, count: int, vocab_size: int, device: torch.device) -> Settings:
        """The first `count` rows for the sampler; rows beyond the slots are neutral."""
        ready = self._built.get((count, device))
        if ready is not None:
            return ready
        have = min(count, len(self._greedy))

        def column(values: NDArray[np.generic], neutral: float) -> Tensor:
            padded = np.full(count, neutral, values.dtype)
            padded[:have] = values[:have]
            return torch.as_tensor(padded, device=device)

        top_k = np.where(self._top_k == 0, vocab_size, self._top_k)
        settings = Settings(
            temperature_R1=column(self._temperature, 1)[:, None] if (self._temperature[:have] != 1).any() else None,
            greedy_R=column(self._greedy, 0) if self._greedy[:have].any() else None,
            top_k_R1=column(top_k, vocab_size)[:, None] if (top_k[:have] < vocab_size).any() else None,
            top_p_R1=column(self._top_p, 1)[:, None] if (self._top_p[:have] < 1).any() else None,
            min_p_R1=column(self._min_p, 0)[:, None] if (self._min_p[:have] > 0).any() else None,
        )
        self._built[count, device] = settings
        return settings
