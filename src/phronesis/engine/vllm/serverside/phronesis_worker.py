"""What a vLLM server of ours does beyond vLLM: loaded into its workers, in its own environment, without Phronesis.

vLLM for the CPU keeps its matrices packed. Its reload packs anew what a checkpoint names; an output head tied to the embedding
is not named there and would go on with the first weights (seen in 0.32.0), so it is packed again here.
"""

from __future__ import annotations

from typing import Protocol, cast


class _Method(Protocol):
    def process_weights_after_loading(self, layer: object) -> None: ...


class _Head(Protocol):
    quant_method: _Method


class _Worker(Protocol):
    def reload_weights(self, *, weights_path: str) -> None: ...

    def get_model(self) -> object: ...


class PhronesisWorker:
    """Mixed into vLLM's worker class by ``--worker-extension-cls``."""

    def phronesis_reload(self, weights_path: str) -> None:
        """`reload_weights`, and the output head."""
        worker = cast("_Worker", self)
        worker.reload_weights(weights_path=weights_path)
        head: object = getattr(worker.get_model(), "lm_head", None)
        if head is not None and hasattr(head, "cpu_linear"):
            cast("_Head", head).quant_method.process_weights_after_loading(head)
