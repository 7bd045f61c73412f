"""Pins: the client that verifiers v1 trains with samples at our gateway's token route, and reads what our engine sampled."""

import json
import math
import subprocess

import httpx
from catalogue_worlds import HERE, python_of
from shop import TOKENIZER, make_book

from phronesis.engine.embedded import EmbeddedEngine
from phronesis.gateway import in_background
from phronesis.models.tiny import TinyModel, tiny
from phronesis.rollout.limits import Limits


def test_the_training_client_of_verifiers_samples_at_our_token_route():
    """20 prompts: ids and log-probabilities are those that a plain request reads; a prompt beyond the context is never sent."""
    python = python_of("verifiers")
    decoder = tiny(TinyModel(width=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_width=32), len(TOKENIZER), 0)

    def make():
        limits = Limits(context=200, max_turn_tokens=8)
        return make_book(policy=EmbeddedEngine(decoder), any_model=False, model="m", limits=limits)

    with in_background(make) as (address, _), httpx.Client(base_url=address, timeout=60) as http:
        command = [python, str(HERE / "renderers_client.py"), address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        *found, last = json.loads(done.stdout.splitlines()[-1])
        assert len(found) == 20 and last == {"overlong": 300}
        for n, read in enumerate(found):
            sampling = {"max_tokens": 6, "seed": n, "stop_token_ids": [2], "logprobs": 1}
            body = {"model": "m", "token_ids": [5, 6, 7 + n], "sampling_params": sampling}
            (choice,) = http.post("/inference/v1/generate", json=body).json()["choices"]
            assert read["prompt_ids"] == [5, 6, 7 + n] and read["completion_ids"] == choice["token_ids"]
            assert read["completion_logprobs"] == [c["logprob"] for c in choice["logprobs"]["content"]]
            assert all(math.isfinite(x) and x < 0 for x in read["completion_logprobs"])
            assert read["finish_reason"] == choice["finish_reason"]
