"""Servers that misbehave: whatever they do, the policy gives a completion that can be trusted, or raises a PolicyFault.

Pinned: every fault is asked again elsewhere; a server with older weights is recognised by its label and given the right
ones; one that takes weights in name only is not used; refused requests are not repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from scripted_server import Said, ScriptedServer, serving
from vllm_double import CONTEXT, VOCAB, Double, changed, says

from phronesis.engine.vllm.config import VLLMConfig
from phronesis.engine.vllm.engine import VLLMEngine
from phronesis.engine.vllm.fleet import Fleet
from phronesis.errors import ConfigError, EndpointFault, PolicyFault
from phronesis.policy import SamplingParams, ThoughtBudget, prompt_crc
from phronesis.records import Finish

PROMPT = [3, 4, 5]
RIGHT = (12, 13, 14, 15)


@contextlib.asynccontextmanager
async def playing(*doubles: Double, weights: bool = True, score=None, **settings):
    """An engine over scripted servers."""
    async with contextlib.AsyncExitStack() as stack:
        served: list[ScriptedServer] = [await stack.enter_async_context(serving(d)) for d in doubles]
        urls = tuple(s.url.removesuffix("/v1") for s in served)
        quick = {"health_seconds": 0.05, "recover_seconds": 3.0, "request_seconds": 30.0} | settings
        engine = VLLMEngine(
            Fleet(VLLMConfig(urls=urls, **quick)),
            vocab_size=VOCAB,
            save=(lambda folder: folder.mkdir()) if weights else None,
            score=score,
        )
        try:
            yield engine
        finally:
            await engine.fleet.close()


FAULTS = {
    "overloaded": says(Said(status=429, headers={"retry-after": "0"})),
    "server error": says(Said(status=500, body={"error": "out of blocks"})),
    "unavailable": says(Said(status=503)),
    "dropped connection": says(Said(drop=True)),
    "cut in the middle": says(Said(body=b'{"choices": [{"token_ids": [1, 2', cut=20)),
    "slow": says(Said(body={}, delay=4.0)),
    "no JSON": says(Said(body=b"<html>bad gateway</html>")),
    "NaN": says(Said(body=b'{"choices": [{"token_ids": [1], "logprobs": {"content": [{"token_id": 1, "logprob": NaN}]}}]}')),
    "clamped logprob": changed(
        logprobs={"content": [{"token_id": i, "logprob": -9999.0 if i == 13 else -0.5} for i in RIGHT]},
    ),
    "missing logprob": changed(logprobs={"content": [{"token_id": i, "logprob": None} for i in RIGHT]}),
    "too few logprobs": changed(logprobs={"content": [{"token_id": i, "logprob": -0.5} for i in RIGHT[:3]]}),
    "logprobs of other ids": changed(logprobs={"content": [{"token_id": 7, "logprob": -0.5} for _ in RIGHT]}),
    "too few ids": changed(token_ids=[12, 13], logprobs={"content": [{"token_id": i, "logprob": -0.5} for i in RIGHT[:2]]}),
    "too many ids": changed(token_ids=[1] * 5, logprobs={"content": [{"token_id": 1, "logprob": -0.5} for _ in range(5)]}),
    "no ids": changed(token_ids=[], logprobs={"content": []}),
    "other prompt": changed(prompt_token_ids=[3, 4, 6]),
    "aborted": changed(finish_reason="abort"),
    "stopped without a stop id": changed(finish_reason="stop"),
    "two choices": changed(choices=[]),
    "foreign weights": changed(weight_versions=[{"version": "default"}]),
    "older weights in the middle": changed(weight_versions=[{"version": "phronesis-00000000:0"}]),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_asked_again_and_the_answer_is_the_right_one(name):
    first, second = Double(), Double()
    first.faults.append(FAULTS[name](first))
    second.faults.append(FAULTS[name](second))
    async with playing(first, second, request_seconds=2.0 if name == "slow" else 30.0) as engine:
        said = await engine.sample(PROMPT, SamplingParams(max_tokens=4, seed=9, cache_key="k"))
        assert (said.ids, said.logprobs, said.finish) == (RIGHT, (-0.5,) * 4, Finish.length)
        assert said.prompt_crc == prompt_crc(PROMPT)
        assert said.cached_tokens == 3
        assert sum(engine.retries.values()) >= 1  # one or both faulty answers were met
        seeds = {a["sampling_params"]["seed"] for a in first.asked + second.asked}
        assert seeds == {9}  # an attempt elsewhere draws the same numbers


@pytest.mark.parametrize("name", ["server error", "dropped connection", "NaN", "other prompt", "foreign weights"])
async def test_a_fault_that_never_ends_is_a_policy_fault(name):
    double = Double()
    double.faults += [FAULTS[name](double)] * 9
    async with playing(double, attempts=3) as engine:
        with pytest.raises(PolicyFault, match="3 attempts"):
            await engine.sample(PROMPT, SamplingParams(max_tokens=4))
        assert len(double.asked) == 3
        assert sum(engine.retries.values()) == 3
        assert engine.fleet.account.startswith("3 requests asked again for ")


async def test_a_request_that_was_refused_is_not_repeated():
    double = Double()
    double.faults += [says(Said(status=400, body={"error": "top_p must be positive"}))(double)] * 3
    async with playing(double) as engine:
        with pytest.raises(EndpointFault, match="top_p must be positive"):
            await engine.sample(PROMPT, SamplingParams(max_tokens=4))
        assert len(double.asked) == 1


async def test_a_server_that_died_comes_back_and_gets_the_newest_weights_first():
    first, second = Double(), Double()
    async with playing(first, second) as engine:
        await engine.settle()
        first.healthy = False
        for n in range(6):
            assert (await engine.sample(PROMPT, SamplingParams(max_tokens=4, cache_key=f"k{n}"))).ids == RIGHT
        assert not first.asked
        assert [s.alive for s in engine.fleet.servers] == [False, True]
        engine.advance()
        await engine.settle()
        first.healthy, first.label = True, "default"  # it began anew
        while len(engine.fleet.ready) < 2:
            await asyncio.sleep(0.01)
        assert first.label == second.label == f"{engine._name}:1"
        answers = await asyncio.gather(
            *(engine.sample(PROMPT, SamplingParams(max_tokens=4, cache_key=f"k{n}")) for n in range(20))
        )
        assert first.asked and {a.version for a in answers} == {(1, 1)}


async def test_a_server_that_began_anew_unnoticed_is_recognised_by_its_label():
    first, second = Double(), Double()
    async with playing(first, second, health_seconds=30.0) as engine:
        await engine.settle()
        first.label = second.label = "default"
        said = await engine.sample(PROMPT, SamplingParams(max_tokens=4))
        assert said.version == (0, 0) and engine.retries["old_weights"] >= 1
        assert f"{engine._name}:0" in (first.label, second.label)


async def test_nobody_answers_and_somebody_comes_back_in_time():
    double = Double()
    async with playing(double) as engine:
        await engine.settle()
        double.healthy = False
        asked = asyncio.create_task(engine.sample(PROMPT, SamplingParams(max_tokens=4)))
        await asyncio.sleep(0.3)
        assert not asked.done()
        double.healthy = True
        assert (await asked).ids == RIGHT


async def test_nobody_comes_back():
    double = Double()
    async with playing(double, recover_seconds=0.3) as engine:
        await engine.settle()
        double.healthy = False
        with pytest.raises(PolicyFault, match=r"no vLLM server could answer for 0\.3 s"):
            await engine.sample(PROMPT, SamplingParams(max_tokens=4))


async def test_nobody_is_there_from_the_start():
    double = Double(healthy=False)
    async with playing(double, recover_seconds=0.3) as engine:
        with pytest.raises(PolicyFault, match="did not answer within"):
            await engine.sample(PROMPT, SamplingParams(max_tokens=4))


async def test_new_weights_pause_reload_forget_label_resume_and_requests_go_on():
    double = Double()
    async with playing(double) as engine:
        await engine.sample(PROMPT, SamplingParams(max_tokens=4))
        double.log.clear()
        assert engine.advance() == 1 == engine.version
        said = await engine.sample(PROMPT, SamplingParams(max_tokens=4))  # waits for the weights
        assert said.version == (1, 1)
        assert double.log == [
            "/pause?mode=keep",
            "/collective_rpc",
            "/reset_prefix_cache?reset_running_requests=true",
            "/update_weight_version",
            "/resume",
        ]
        assert double.asked[-1]["cache_salt"] == double.label == f"{engine._name}:1"


async def test_a_completion_that_saw_two_weights_says_so():
    double = Double()
    async with playing(double) as engine:
        await engine.settle()
        name = engine._name
        spans = [{"version": f"{name}:0"}, {"version": f"{name}:1"}]
        double.faults.append(changed(weight_versions=spans)(double))
        assert (await engine.sample(PROMPT, SamplingParams(max_tokens=4))).version == (0, 1)
        engine.advance()
        double.faults.append(changed(weight_versions=spans)(double))  # begun after the update: too old now
        assert (await engine.sample(PROMPT, SamplingParams(max_tokens=4))).version == (1, 1)
        assert engine.retries["old_weights"] == 1


async def test_weights_taken_in_name_only_are_found_by_the_probe():
    double = Double(nats=-0.5)
    async with playing(double, score=lambda ids: [-4.0] * (len(ids) - 1), recover_seconds=0.5) as engine:
        with pytest.raises(PolicyFault, match=r"3\.5 nats off"):
            await engine.sample(PROMPT, SamplingParams(max_tokens=4))
        assert not double.asked
        double.nats = -4.0
        assert (await engine.sample(PROMPT, SamplingParams(max_tokens=4))).logprobs == (-4.0,) * 4


async def test_one_server_that_does_not_take_weights_leaves_the_others_at_work():
    first, second = Double(takes=False), Double()
    async with playing(first, second, score=lambda ids: [-0.5] * (len(ids) - 1)) as engine:
        for n in range(8):
            await engine.sample(PROMPT, SamplingParams(max_tokens=4, cache_key=str(n)))
        first.nats = -3.0
        engine.advance()
        for n in range(8):
            said = await engine.sample(PROMPT, SamplingParams(max_tokens=4, cache_key=str(n)))
            assert said.version == (1, 1) and set(said.logprobs) == {-0.5}


async def test_servers_without_weights_of_ours_are_left_alone():
    double = Double(label="somebody's")
    async with playing(double, weights=False) as engine:
        said = await engine.sample(PROMPT, SamplingParams(max_tokens=4))
        assert (said.ids, said.version, double.log) == (RIGHT, (0, 0), [])
        assert engine.advance() == 1 and double.log == []


async def test_what_is_sent():
    double = Double()
    async with playing(double) as engine:
        params = SamplingParams(max_tokens=2, temperature=0.7, top_p=0.9, top_k=5, min_p=0.1, stop_ids=(30, 31), seed=2**63 - 1)
        await engine.sample(PROMPT, params)
        assert double.asked[-1] | {"cache_salt": None} == {
            "model": "m",
            "token_ids": PROMPT,
            "return_token_ids": True,
            "cache_salt": None,
            "sampling_params": {
                "max_tokens": 2, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 2**63 - 1, "logprobs": 0,
                "ignore_eos": True, "stop_token_ids": [30, 31], "detokenize": False,
            },
        }  # fmt: skip
        await engine.sample(PROMPT, SamplingParams(max_tokens=2, temperature=0.0, top_p=0.5))
        greedy = double.asked[-1]["sampling_params"]
        assert greedy["temperature"] == 0 and "top_p" not in greedy  # else its logprobs would be of the nucleus


async def test_stop_ids_end_a_completion_and_belong_to_it():
    double = Double()
    async with playing(double) as engine:
        said = await engine.sample(PROMPT, SamplingParams(max_tokens=9, stop_ids=(14, 2)))
        assert (said.ids, said.finish) == ((12, 13, 14), Finish.stop)


async def test_the_context_ends_a_completion():
    double = Double()
    async with playing(double) as engine:
        prompt = [1] * (CONTEXT - 2)
        said = await engine.sample(prompt, SamplingParams(max_tokens=9))
        assert (len(said.ids), said.finish) == (2, Finish.context)
        with pytest.raises(PolicyFault, match="the context holds 64"):
            await engine.sample([1] * CONTEXT, SamplingParams(max_tokens=9))


async def test_forced_ids_come_first_and_their_logprobs_are_looked_up():
    double = Double()
    async with playing(double) as engine:
        said = await engine.sample(PROMPT, SamplingParams(max_tokens=4, forced=(7, 8), temperature=0.5))
        assert said.ids == (7, 8, 27, 28)  # 3 + 4 + 5 + 7 + 8 = 27
        assert said.sampled == (False, False, True, True)
        assert said.logprobs == (-1.5, -1.5, -0.5, -0.5)
        assert said.prompt_crc == prompt_crc(PROMPT)
        looked = [a for a in double.asked if "logprob_token_ids" in a["sampling_params"]]
        assert [(a["token_ids"], a["sampling_params"]["logprob_token_ids"]) for a in looked] == [
            (PROMPT, [7, 7]),
            ([*PROMPT, 7], [8, 8]),
        ]
        only = await engine.sample(PROMPT, SamplingParams(max_tokens=2, forced=(7, 8, 9), temperature=0.5))
        assert (only.ids, only.sampled, only.finish) == ((7, 8), (False, False), Finish.length)


async def test_a_think_block_is_closed_when_its_budget_is_used_up():
    double = Double()
    async with playing(double) as engine:
        budget = ThoughtBudget(max_tokens=2, open_id=45, close_ids=(46, 47))
        said = await engine.sample([*PROMPT, 45], SamplingParams(max_tokens=7, thought=budget, seed=1))
        # 3 + 4 + 5 + 45 = 57: two thoughts 17 18, the close 46 47, and 57 + 17 + 18 + 46 + 47 = 185: 25 26 27
        assert said.ids == (17, 18, 46, 47, 25, 26, 27)
        assert said.sampled == (True, True, False, False, True, True, True)
        seeds = [a["sampling_params"]["seed"] for a in double.asked if "logprob_token_ids" not in a["sampling_params"]]
        assert seeds[0] == 1 and len(set(seeds)) == 2  # the second part does not draw the first one's numbers again


async def test_a_think_block_that_ends_by_itself_costs_no_forced_ids():
    double = Double()
    async with playing(double) as engine:
        budget = ThoughtBudget(max_tokens=9, open_id=45, close_ids=(46, 18))
        said = await engine.sample([*PROMPT, 45], SamplingParams(max_tokens=4, thought=budget))
        assert said.ids == (17, 18, 12, 13) and all(said.sampled)


async def test_scores_are_one_request_at_temperature_one_and_one_each_at_others():
    double = Double()
    async with playing(double) as engine:
        assert await engine.score([1, 2, 9]) == (-0.5, -0.5)
        assert await engine.score([1, 2, 9], 0.5) == (-1.5, -1.5)
        assert await engine.score([1]) == ()
        with pytest.raises(ConfigError):
            await engine.score([1, 2], -1.0)


async def test_cancelling_one_request_leaves_the_others_alone():
    double = Double()
    double.faults.append(says(Said(body={}, delay=5.0))(double))
    async with playing(double) as engine:
        await engine.settle()
        slow = asyncio.create_task(engine.sample(PROMPT, SamplingParams(max_tokens=4)))
        while not double.asked:
            await asyncio.sleep(0.01)
        slow.cancel()
        began = time.monotonic()
        assert (await engine.sample(PROMPT, SamplingParams(max_tokens=4))).ids == RIGHT
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert time.monotonic() - began < 4.0
        assert engine.fleet.servers[0].load == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "urls"),
        ({"urls": ("http://a",), "servers": 1}, "not both"),
        ({"urls": ("http://a", "http://a")}, "twice"),
        ({"servers": 2, "devices": ("0",)}, "devices"),
        ({"urls": ("http://a",), "route": "chat"}, "route"),
        ({"servers": 1, "route": "sglang"}, "sglang"),
        ({"urls": ("http://a",), "attempts": 0}, "attempts"),
        ({"urls": ("http://a",), "spread": 0.5}, "spread"),
        ({"urls": ("http://a",), "api_key_env": "NO_SUCH_KEY_HERE"}, "NO_SUCH_KEY_HERE"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        Fleet(VLLMConfig(**settings))
