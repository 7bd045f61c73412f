"""What the learner and the engine ask of a language model, however it is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from phronesis.models.layout import AttentionPlan


class LanguageModel(nn.Module, ABC):
    """A decoder-only language model over packed tokens. `Decoder` is the fast one, `GenericModel` takes any architecture.

    Shapes: N packed tokens, K selected tokens, S size of a state, V vocabulary.
    """

    note: str = ""
    """Why the model is not computed by the compact decoder; empty where it is."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """V."""

    @property
    @abstractmethod
    def max_positions(self) -> int:
        """Longest sequence the model was made for, in tokens."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Type of the weights."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights lie."""

    @abstractmethod
    def hidden(self, ids_N: Tensor, plan: AttentionPlan, checkpointing: bool = False) -> Tensor:
        """What `logits` reads of packed tokens.

        Args:
            ids_N: token ids `[N]`, in the order of the segments given to `plan`.
            plan: who attends to whom, on the model's device.
            checkpointing: True recomputes in the backward pass instead of keeping activations.

        Returns:
            `[N, S]`; row n predicts the token after token n on its path.
        """

    @abstractmethod
    def logits(self, hidden_KS: Tensor) -> Tensor:
        """Logits `[K, V]` in fp32 for selected rows of `hidden`."""
