"""SGLang's HTTP contract as its documentation states it, against a scripted server; no real SGLang was asked."""

from __future__ import annotations

import contextlib

import pytest
from scripted_server import Heard, Said, serving

from phronesis.engine.vllm.config import VLLMConfig
from phronesis.engine.vllm.engine import VLLMEngine
from phronesis.engine.vllm.fleet import Fleet
from phronesis.errors import ConfigError, PolicyFault
from phronesis.policy import SamplingParams, prompt_crc
from phronesis.records import Finish


class SGLang:
    """Says ids 10, 11, 12, ..., each with −0.5 nats."""

    def __init__(self):
        self.version, self.log, self.asked, self.changes = "default", list[str](), list[dict](), dict[str, object]()

    def __call__(self, heard: Heard) -> Said:
        path, body = heard.path, heard.body
        if path == "/v1/models":
            return Said(body={"data": [{"id": "m", "max_model_len": 64}]})
        if path == "/get_model_info":
            return Said(body={"model_path": "m", "weight_version": self.version})
        if path == "/generate":
            return Said(body=self.generate(body))
        if path != "/health":
            self.log.append(path)
        if path == "/update_weights_from_disk":
            self.version = body["weight_version"]
            return Said(body={"success": True, "message": "done", "num_paused_requests": 0})
        return Said(body={})

    def generate(self, body: dict) -> dict:
        self.asked.append(body)
        params, prompt = body["sampling_params"], body["input_ids"]
        ids = [10 + t for t in range(params["max_new_tokens"])]
        reason: dict[str, object] = {"type": "length", "length": len(ids)}
        for t, i in enumerate(ids):
            if i in params.get("stop_token_ids", ()):
                ids, reason = ids[: t + 1], {"type": "stop", "matched": i}
                break
        meta = {
            "id": "r",
            "finish_reason": reason,
            "prompt_tokens": len(prompt),
            "completion_tokens": len(ids),
            "cached_tokens": 2,
            "weight_version": self.version,
            "output_token_logprobs": [[-0.5, i, None] for i in ids],
        }
        if body["logprob_start_len"] == 0:
            meta["input_token_logprobs"] = [[None, prompt[0], None], *([-0.25, i, None] for i in prompt[1:])]
        return {"text": "", "output_ids": ids, "meta_info": meta | self.changes}


@contextlib.asynccontextmanager
async def playing(double: SGLang):
    async with serving(double) as server:
        url = server.url.removesuffix("/v1")
        fleet = Fleet(VLLMConfig(urls=(url,), route="sglang", health_seconds=0.05, attempts=2))
        try:
            yield VLLMEngine(fleet, vocab_size=50, save=lambda folder: folder.mkdir())
        finally:
            await fleet.close()


async def test_ids_in_and_out():
    double = SGLang()
    async with playing(double) as engine:
        said = await engine.sample([3, 4, 5], SamplingParams(max_tokens=9, stop_ids=(12,), seed=7, temperature=0.8))
        assert (said.ids, said.finish, said.version) == ((10, 11, 12), Finish.stop, (0, 0))
        assert (said.logprobs, said.prompt_crc, said.cached_tokens) == ((-0.5,) * 3, prompt_crc([3, 4, 5]), 2)
        assert double.asked[-1] == {
            "input_ids": [3, 4, 5], "return_logprob": True, "logprob_start_len": -1,
            "sampling_params": {
                "max_new_tokens": 9, "temperature": 0.8, "stop_token_ids": [12], "stop": [], "ignore_eos": True,
                "no_stop_trim": True, "skip_special_tokens": False, "sampling_seed": 7,
            },
        }  # fmt: skip
        assert await engine.score([3, 4, 5]) == (-0.25, -0.25)
        forced = await engine.sample([3, 4], SamplingParams(max_tokens=3, forced=(8,)))
        assert (forced.ids, forced.logprobs) == ((8, 10, 11), (-0.25, -0.5, -0.5))


async def test_new_weights():
    double = SGLang()
    async with playing(double) as engine:
        await engine.settle()
        double.log.clear()
        engine.advance()
        assert (await engine.sample([3], SamplingParams(max_tokens=2))).version == (1, 1)
        assert double.log == ["/pause_generation", "/update_weights_from_disk", "/continue_generation"]


@pytest.mark.parametrize(
    "changes",
    [
        {"output_token_logprobs": [[-0.5, 10, None]]},
        {"output_token_logprobs": [[-0.5, 9, None], [-0.5, 11, None]]},
        {"output_token_logprobs": [[None, 10, None], [-0.5, 11, None]]},
        {"prompt_tokens": 2},
        {"finish_reason": {"type": "abort", "message": "out of memory"}},
        {"weight_version": "default"},
    ],
)
async def test_answers_that_cannot_be_trusted_become_faults(changes):
    double = SGLang()
    async with playing(double) as engine:
        double.changes = changes
        with pytest.raises(PolicyFault, match="2 attempts"):
            await engine.sample([3], SamplingParams(max_tokens=2))


async def test_filters_are_refused():
    async with playing(SGLang()) as engine:
        with pytest.raises(ConfigError, match="top_p"):
            await engine.sample([3], SamplingParams(max_tokens=2, top_p=0.9))
