"""A batch as tensors.

Shapes: N packed tokens (segments one after the other), K trained tokens, S sequences. The distribution of a token comes from
its predecessor on its path, and the predecessor of a segment's first token is the last token of its parent.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from phronesis.errors import TrainingError
from phronesis.losses import AS_CONFIGURED, Coefficients, LossInputs, Totals, Versions
from phronesis.models.layout import AttentionPlan, plan
from phronesis.records import Batch


class Packed(NamedTuple):
    """What the learner computes on."""

    ids_N: Tensor
    """int64 token ids."""
    plan: AttentionPlan
    """Who attends to whom."""
    predictors_K: Tensor
    """int64: position in `ids_N` whose hidden state predicts each trained token."""
    targets_K: Tensor
    """int64: the trained tokens' ids."""
    logp_infer_K: Tensor
    """float32 nats, as recorded by the sampler."""
    advantages_K: Tensor
    """float32."""
    temperatures_K: Tensor | None
    """float32; None when all are 1."""
    sequence_K: Tensor
    """int64: index into `Batch.episodes`."""
    turn_K: Tensor
    """int64."""
    totals: Totals
    """Denominators of the whole step."""
    observed_K: Tensor | None = None
    """bool: True where the token is the environment's and only learned by cross-entropy; None when none is. Then K counts them
    too, and their credit and recorded log-probability are 0."""
    version_K: Tensor | None = None
    """int64: the weights that sampled each token's turn, the oldest of them; None when not noted."""
    trace_K: Tensor | None = None
    """int64: the separate context of the episode each token belongs to; None means all to the first."""

    @property
    def sampled_K(self) -> Tensor | None:
        """bool: True where the token was sampled by the policy; None when all were."""
        return None if self.observed_K is None else ~self.observed_K

    def by_age_K(self, version: int) -> tuple[Tensor | None, Tensor | None]:
        """bool: the sampled tokens of `version` (None means all) and the older ones (None means that there are none).

        Recomputing the first must give what the sampler recorded. The second, where playing goes on while the policy learns,
        differ by what was learned since.
        """
        if self.version_K is None or bool((self.version_K >= version).all()):
            return self.sampled_K, None
        fresh_K = self.version_K >= version
        if self.sampled_K is None:
            return fresh_K, ~fresh_K
        return fresh_K & self.sampled_K, ~fresh_K & self.sampled_K

    def inputs(
        self,
        logp_theta_K: Tensor,
        logp_old_K: Tensor,
        *,
        entropy_K: Tensor | None = None,
        logp_ref_K: Tensor | None = None,
        coefficients: Coefficients = AS_CONFIGURED,
        divergence_K: Tensor | None = None,
        version: int | None = None,
    ) -> LossInputs:
        """What a loss reads.

        Args:
            version: of the weights at the start of the update; those that are being made are the next.
        """
        versions = None
        if version is not None and self.version_K is not None:
            versions = Versions(self.version_K, version, version + 1)
        return LossInputs(
            logp_theta_N=logp_theta_K,
            logp_old_N=logp_old_K,
            logp_infer_N=self.logp_infer_K,
            advantages_N=self.advantages_K,
            sequence_N=self.sequence_K,
            turn_N=self.turn_K,
            totals=self.totals,
            entropy_N=entropy_K,
            logp_ref_N=logp_ref_K,
            mask_N=self.sampled_K,
            observed_N=self.observed_K,
            trace_N=self.trace_K,
            coefficients=coefficients,
            divergence_N=divergence_K,
            versions=versions,
        )


def pack(batch: Batch, device: torch.device | str = "cpu") -> Packed:
    """Tensors of a batch on `device`.

    Segments (1 2 3) and, under it, (4 5) with both trained: predictors are positions 2 and 3, targets 4 and 5.

    Raises:
        ConfigError: the batch is empty.
        TrainingError: the first token of a root is trained; nothing predicts it.
    """
    segments, n = batch.segments, batch.tokens
    lengths = [len(s.ids) for s in segments]
    ends_S = np.cumsum(np.array(lengths, dtype=np.int64))
    starts = [int(end) - length for end, length in zip(ends_S, lengths, strict=True)]
    observed_N = np.fromiter(
        chain.from_iterable(s.observed or (False,) * len(s.ids) for s in segments), dtype=np.bool_, count=n
    )
    mask_N = observed_N | np.fromiter(chain.from_iterable(s.mask for s in segments), dtype=np.bool_, count=n)
    before_N = np.arange(-1, n - 1, dtype=np.int64)
    for start, s in zip(starts, segments, strict=True):
        before_N[start] = -1 if s.parent is None else ends_S[s.parent] - 1
    predictors_K = before_N[mask_N]
    if (predictors_K < 0).any():
        raise TrainingError("the first token of a root segment is marked as trained, but nothing predicts it")
    ids_N = np.fromiter(chain.from_iterable(s.ids for s in segments), dtype=np.int64, count=n)
    counts = [sum(s.mask) + sum(s.observed) for s in segments]
    temperatures_K = np.repeat(np.array([s.temperature for s in segments], dtype=np.float32), counts)

    sequence_K = np.repeat(np.array([s.episode for s in segments], dtype=np.int64), counts)
    turn_K = np.fromiter(chain.from_iterable(s.turns for s in segments), dtype=np.int64, count=n)[mask_N]

    def floats(rows: list[tuple[float, ...]]) -> Tensor:
        return torch.from_numpy(np.fromiter(chain.from_iterable(rows), dtype=np.float32, count=n)[mask_N]).to(device)  # pyright: ignore[reportUnknownMemberType]

    def integers(row: np.ndarray) -> Tensor:
        return torch.from_numpy(row.astype(np.int64)).to(device)  # pyright: ignore[reportUnknownMemberType]

    return Packed(
        ids_N=integers(ids_N),
        plan=plan(lengths, [s.parent for s in segments]).to(device),
        predictors_K=integers(predictors_K),
        targets_K=integers(ids_N[mask_N]),
        logp_infer_K=floats([s.logprobs for s in segments]),
        advantages_K=floats([s.advantages for s in segments]),
        temperatures_K=None if (temperatures_K == 1).all() else torch.from_numpy(temperatures_K).to(device),  # pyright: ignore[reportUnknownMemberType]
        sequence_K=integers(sequence_K),
        turn_K=integers(turn_K),
        totals=Totals(
            tokens=batch.total_tokens,
            sequences=batch.total_sequences,
            tokens_S=torch.tensor(batch.sequence_tokens, dtype=torch.int64, device=device),
            turns=batch.total_turns,
            observed=batch.total_observed,
        ),
        observed_K=torch.from_numpy(observed_N[mask_N]).to(device) if observed_N.any() else None,  # pyright: ignore[reportUnknownMemberType]
        version_K=integers(_versions(batch, sequence_K, turn_K)) if batch.versions else None,
        trace_K=integers(np.repeat(np.array([s.trace for s in segments], dtype=np.int64), counts)),
    )


def _versions(batch: Batch, sequence_K: np.ndarray, turn_K: np.ndarray) -> np.ndarray:
    """int64 `[K]`: which weights sampled each token's turn; 0 at tokens of the environment."""
    starts = np.cumsum([0, *(len(row) for row in batch.versions)], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(batch.versions), dtype=np.int64, count=int(starts[-1]))
    own = turn_K >= 0
    return np.where(own, flat[np.where(own, starts[sequence_K] + turn_K, 0)], 0)
