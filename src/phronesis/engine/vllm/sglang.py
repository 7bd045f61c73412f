"""SGLang behind the same engine: its native route for ids and its way of changing weights.

Written to the contract its documentation and sources state, and tested against a scripted server only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from msgspec import Struct

from phronesis.engine.http import HttpClient
from phronesis.engine.vllm.ask import Ask, Said, checked, finite
from phronesis.engine.vllm.wire import decoded
from phronesis.errors import ConfigError, EndpointFault, WireError
from phronesis.records import Finish

Numbers = list[tuple[float | None, int, str | None]]


class _Reason(Struct):
    type: str


class _Meta(Struct):
    finish_reason: _Reason | None = None
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    weight_version: str | None = None
    output_token_logprobs: Numbers | None = None
    input_token_logprobs: Numbers | None = None


class _Reply(Struct):
    meta_info: _Meta
    output_ids: list[int] | None = None


class SGLangRoute:
    """``POST /generate``. It names only the weights a completion ended with, and counts the ids consumed without naming them.

    Its log-probabilities are of the whole distribution at the temperature, so filters are refused.
    """

    path = "generate"
    """Where requests go."""

    def body(self, model: str, ask: Ask) -> dict[str, object]:
        """The request.

        Raises:
            ConfigError: with top_p, top_k or min_p, whose distribution the server does not report.
        """
        if ask.temperature > 0 and (ask.top_p < 1 or ask.top_k or ask.min_p):
            raise ConfigError(
                "SGLang reports log-probabilities of the unfiltered distribution; leave top_p, top_k and min_p off"
            )
        params: dict[str, object] = {
            "max_new_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "stop_token_ids": ask.stop_ids,
            "stop": ask.stop_strings,
            "ignore_eos": True,
            "no_stop_trim": True,  # the id that ends it belongs to it
            "skip_special_tokens": False,
            "sampling_seed": ask.seed,
        }
        return {"input_ids": ask.prompt, "sampling_params": params, "return_logprob": True, "logprob_start_len": -1}

    def read(self, content: bytes, ask: Ask) -> Said:
        """The answer, checked."""
        reply = decoded(content, _Reply)
        meta, ids = reply.meta_info, tuple(reply.output_ids or ())
        numbers = meta.output_token_logprobs or []
        if tuple(token for _, token, _ in numbers) != ids:
            raise WireError("meta_info.output_token_logprobs", "they belong to other ids than those sampled")
        if meta.prompt_tokens is not None and meta.prompt_tokens != len(ask.prompt):
            raise WireError("meta_info.prompt_tokens", f"consumed {meta.prompt_tokens} ids, was sent {len(ask.prompt)}")
        reason = "nothing" if meta.finish_reason is None else meta.finish_reason.type
        full = Finish.length if len(ids) == ask.max_tokens else Finish.context
        said = Said(
            ids=ids,
            logprobs=finite([p for p, _, _ in numbers]),
            finish=Finish.stop if reason == "stop" else full,
            prompt=None,
            labels=() if meta.weight_version is None else (meta.weight_version,),
            newest_only=True,
            cached=meta.cached_tokens,
        )
        return checked(said, ask, reason)

    def score_body(self, model: str, ids: Sequence[int]) -> dict[str, object]:
        """A request whose prompt is scored; its one sampled id is thrown away."""
        params = {"max_new_tokens": 1, "temperature": 0.0}
        return {"input_ids": tuple(ids), "sampling_params": params, "return_logprob": True, "logprob_start_len": 0}

    def read_scores(self, content: bytes, ids: Sequence[int]) -> tuple[float, ...]:
        """Nats `[len(ids) - 1]`."""
        numbers = decoded(content, _Reply).meta_info.input_token_logprobs or []
        if [token for _, token, _ in numbers] != list(ids):
            raise WireError("meta_info.input_token_logprobs", f"{len(numbers)} entries, not those of the {len(ids)} ids sent")
        return finite([p for p, _, _ in numbers[1:]])


class SGLangControl:
    """Pause retracting requests (their cache is computed again), load from disk under a label, continue."""

    async def label(self, http: HttpClient, last: str | None) -> str | None:
        """The server's own word."""
        found = await http.get("get_model_info", retry=False)
        version = cast("dict[str, object]", found).get("weight_version") if isinstance(found, dict) else None
        return version if isinstance(version, str) else last

    async def load(self, http: HttpClient, folder: Path, label: str) -> None:
        """Pause, load, continue."""
        try:
            await http.post("pause_generation", {"mode": "retract"}, retry=False)
            done = await http.post(
                "update_weights_from_disk", {"model_path": str(folder), "weight_version": label}, retry=False
            )
            if isinstance(done, dict) and cast("dict[str, object]", done).get("success") is False:
                raise EndpointFault(f"{http.base_url} did not load {str(folder)!r}: {done!r}", url=http.base_url)
        finally:
            await asyncio.shield(http.post("continue_generation", {}, retry=False))
