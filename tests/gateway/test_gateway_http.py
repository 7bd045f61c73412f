"""The gateway over HTTP: isolation, refusals, clients that go away, rewards, secrets. No request may end in a traceback."""

import asyncio
import json
import socket
import subprocess
import sys
import time

import httpx
import openai
import pytest
from shop import LOOK_UP, TOKENIZER, gateway, make_book, prove, run_tool, said, says, text

from phronesis.engine.embedded import EmbeddedEngine
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.errors import ConfigError, PolicyFault, UserError
from phronesis.gateway import GatewayConfig, in_background
from phronesis.models.tiny import TinyModel, tiny
from phronesis.records import Stop
from phronesis.rollout.limits import Limits

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "price of fig"}]}


@pytest.fixture
def served():
    with gateway() as (address, book), httpx.Client(base_url=address, timeout=30) as http:
        yield http, book


def opened(http, **body):
    return http.post("/episodes", json=body).raise_for_status().json()


def test_identical_prompts_of_two_episodes_never_merge(served):
    http, book = served
    one, two = opened(http, task="t"), opened(http, task="t")
    for _ in range(2):
        for episode in (one, two):
            http.post(f"/episodes/{episode['id']}{CHAT}", json=HELLO).raise_for_status()
    ends = [http.post(f"/episodes/{e['id']}/finish", json={"reward": r}).json() for e, r in ((one, 1.0), (two, 0.0))]
    assert [e["requests"] for e in ends] == [{"opened": 1, "forked": 1}] * 2
    assert one["id"] != two["id"] and one["seed"] != two["seed"]
    assert [len(prove(e).turns) for e in book.played] == [1, 1]
    assert [e.reward.value for e in book.played] == [1.0, 0.0]


def test_a_header_names_the_episode_as_well_as_the_address_does(served):
    http, _ = served
    episode = opened(http)
    http.post(CHAT, json=HELLO, headers={"x-phronesis-episode": episode["id"]}).raise_for_status()
    assert len(http.get(f"/episodes/{episode['id']}").json()["turns"]) == 1
    assert http.post(CHAT, json=HELLO, headers={"x-phronesis-episode": "nobody"}).status_code == 404


def test_a_request_of_no_episode_is_answered_and_not_recorded(served):
    http, book = served
    told = http.post(CHAT, json=HELLO | {"tools": [LOOK_UP]}).raise_for_status().json()
    assert told["choices"][0]["finish_reason"] == "tool_calls"
    assert book.counts["strays"] == 1 and not book.open and not book.played


def test_thirty_two_episodes_at_once_are_isolated():
    """A real engine; every episode asks for another item, two turns each; each record is its own, and token-exact."""
    decoder = tiny(TinyModel(width=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_width=32), len(TOKENIZER), 0)

    async def one(client, http, n):
        episode = (await http.post("/episodes", json={"task": f"task-{n}"})).raise_for_status().json()
        mine = client.with_options(base_url=episode["base_url"])
        messages = [{"role": "user", "content": f"price of fig {n}"}]
        for k in range(2):
            reply = await mine.chat.completions.create(model="m", messages=messages, max_tokens=12)
            messages += [{"role": "assistant", "content": reply.choices[0].message.content or ""}]
            messages += [{"role": "user", "content": f"and {n} again {k}"}]
        (await http.post(f"/episodes/{episode['id']}/finish", json={"reward": float(n)})).raise_for_status()

    async def all_of_them(address):
        async with (
            httpx.AsyncClient(base_url=address, timeout=60) as http,
            openai.AsyncOpenAI(base_url=address, api_key="x") as client,
        ):
            await asyncio.gather(*(one(client, http, n) for n in range(32)))

    with in_background(lambda: make_book(policy=EmbeddedEngine(decoder))) as (address, book):
        asyncio.run(all_of_them(address))
    assert sorted(e.task.id for e in book.played) == sorted(f"task-{n}" for n in range(32))
    for episode in map(prove, book.played):
        n = int(episode.task.id.split("-")[1])
        assert len(episode.turns) == 2 and episode.reward.value == n
        assert f"price of fig {n}<" in text(episode.prompt(1)) and f"and {n} again 0<" in text(episode.prompt(1))
        assert text(episode.prompt(1)).count("price of fig") == 1


def test_ids_and_logprobs_come_on_request(served):
    http, book = served
    episode = opened(http)
    path = f"/episodes/{episode['id']}{CHAT}"
    plain = http.post(path, json=HELLO).json()
    assert "prompt_token_ids" not in plain and plain["choices"][0]["logprobs"] is None
    asked = HELLO | {"return_token_ids": True, "logprobs": True, "top_logprobs": 0}
    told = http.post(path, json=asked).json()
    http.post(f"/episodes/{episode['id']}/finish", json={"reward": 1})
    turn = book.played[0].turns[-1]
    assert tuple(told["prompt_token_ids"]) == turn.context
    assert tuple(told["choices"][0]["token_ids"]) == turn.completion
    content = told["choices"][0]["logprobs"]["content"]
    assert [c["logprob"] for c in content] == list(turn.logprobs)
    assert "".join(c["token"] for c in content) == text(turn.completion)
    assert told["phronesis"] == {"episode": episode["id"], "turn": 1, "kind": "forked", "repairs": [], "version": [0, 0]}
    streamed = [
        json.loads(line.removeprefix("data: "))
        for line in http.post("/v1/chat/completions", json=asked | {"stream": True}).text.splitlines()
        if line.startswith("data: {")
    ]
    assert tuple(streamed[0]["prompt_token_ids"]) == turn.context and streamed[0]["phronesis"]["turn"] == 0
    (last,) = (c["choices"][0] for c in streamed if c["choices"] and c["choices"][0]["finish_reason"])
    assert tuple(last["token_ids"]) == turn.completion


MESSAGES = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (CHAT, b"{not json", 400, "not JSON"),
        (CHAT, b"[" * 100_000, 400, "not JSON"),
        (CHAT, b"\xff\xfe", 400, "not JSON"),
        (CHAT, b"[]", 400, "expected an object"),
        (CHAT, {"messages": MESSAGES}, 400, "model"),
        (CHAT, {"model": "m"}, 400, "messages"),
        (CHAT, {"model": "m", "messages": "hello"}, 400, "messages"),
        (CHAT, {"model": "m", "messages": []}, 400, "messages"),
        (CHAT, {"model": "m", "messages": [{"role": "robot", "content": "x"}]}, 400, "role"),
        (CHAT, {"model": "m", "messages": [{"role": "tool", "content": "x"}]}, 400, "tool_call_id"),
        (CHAT, {"model": "m", "messages": MESSAGES, "max_tokens": 0}, 400, "max_tokens"),
        (CHAT, {"model": "m", "messages": MESSAGES, "temperature": -1}, 400, "temperature"),
        (CHAT, {"model": "m", "messages": MESSAGES, "top_p": 7}, 400, "top_p"),
        (CHAT, {"model": "m", "messages": MESSAGES, "n": 1000}, 400, "n must be at most"),
        (CHAT, {"model": "m", "messages": MESSAGES, "n": 2, "stream": True}, 400, "streamed"),
        (CHAT, {"model": "m", "messages": MESSAGES, "tool_choice": "required"}, 400, "tool_choice"),
        (CHAT, {"model": "m", "messages": MESSAGES, "response_format": {"type": "json_object"}}, 400, "response_format"),
        (CHAT, {"model": "m", "messages": [*MESSAGES, {"role": "assistant", "content": "y"}]}, 400, "must end with"),
        (
            CHAT,
            {
                "model": "m",
                "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
            },
            400,
            "data:image",
        ),
        (CHAT, {"model": "gpt-4o", "messages": MESSAGES}, 404, "no model 'gpt-4o' here; the model is 'm'"),
        ("/v1/messages", {"model": "m", "messages": MESSAGES}, 400, "max_tokens"),
        ("/v1/messages", {"model": "gpt", "max_tokens": 5, "messages": MESSAGES}, 404, "no model 'gpt'"),
        ("/v1/completions", {"model": "m", "prompt": "x"}, 404, "the addresses are"),
        ("/episodes/nobody/v1/chat/completions", HELLO, 404, "POST /episodes opens one"),
        ("/episodes/nobody/reward", {"score": 1}, 404, "no episode 'nobody'"),
        ("/episodes/nobody/finish", {}, 404, "no episode 'nobody'"),
        ("/episodes", {"tsk": "x"}, 400, "unknown field `tsk`"),
        ("/episodes", {"task": {"name": "x"}}, 400, "task"),
        ("/episodes", [], 400, "Expected `object`"),
        ("/inference/v1/generate", {"token_ids": []}, 400, "empty"),
        ("/inference/v1/generate", {"token_ids": ["a"]}, 400, "Expected `int`"),
        ("/inference/v1/generate", {"token_ids": [10**6]}, 400, "not in the vocabulary"),
        ("/inference/v1/generate", {"token_ids": [-1]}, 400, ">= 0"),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"n": 2}}, 400, "n must be 1"),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"logit_bias": {"1": 2}}}, 400, "logit_bias"),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"max_tokens": 0}}, 400, "max_tokens"),
        ("/inference/v1/generate", {"token_ids": [1], "stream": True}, 400, "stream"),
        ("/inference/v1/generate", {"sampling_params": {}}, 400, "token_ids"),
    ],
)
def test_wrong_requests_are_refused_with_what_to_do(engine_gateway, path, body, status, words):
    answer = engine_gateway.post(path, content=body if isinstance(body, bytes) else json.dumps(body).encode())
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error["message"] and "Traceback" not in answer.text
    assert answer.json().get("type") == ("error" if path == "/v1/messages" else None)
    assert answer.headers["x-should-retry"] == "false"


@pytest.fixture(scope="module")
def engine_gateway():
    """Over a real engine, strict about the model's name."""
    decoder = tiny(TinyModel(width=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_width=32), len(TOKENIZER), 0)

    def make():
        limits = Limits(context=200, max_turn_tokens=8)
        return make_book(policy=EmbeddedEngine(decoder), any_model=False, model="m", limits=limits)

    with in_background(make) as (address, _), httpx.Client(base_url=address, timeout=30) as http:
        yield http


def test_wrong_methods_and_large_bodies(engine_gateway):
    assert engine_gateway.get(CHAT).status_code == 405
    with gateway(body_bytes=1000) as (address, _):
        assert httpx.post(f"{address}{CHAT}", content=b"x" * 2000).status_code == 413


def test_a_prompt_beyond_the_context_is_told_in_openais_words(engine_gateway):
    long = {"model": "m", "messages": [{"role": "user", "content": "fig " * 300}]}
    error = engine_gateway.post(CHAT, json=long)
    assert (error.status_code, error.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_the_token_route_gives_both_shapes_of_logprobs_and_repeats_with_a_seed(engine_gateway):
    body = {
        "token_ids": [5, 6, 7],
        "sampling_params": {"max_tokens": 6, "seed": 3, "logprobs": 1, "skip_special_tokens": False},
    }
    one, two = (engine_gateway.post("/inference/v1/generate", json=body | {"model": "m"}).json() for _ in range(2))
    assert one["choices"] == two["choices"] and one["request_id"] != two["request_id"]
    (choice,) = one["choices"]
    content = choice["logprobs"]["content"]
    assert [c["token_id"] for c in content] == choice["token_ids"]
    assert [c["token"] for c in content] == [f"token_id:{i}" for i in choice["token_ids"]]
    assert all(c["logprob"] < 0 for c in content) and choice["weight_versions"] == [0, 0]
    assert one["usage"] == {"prompt_tokens": 3, "completion_tokens": len(content), "total_tokens": 3 + len(content)}
    asked = body | {"return_token_ids": True, "request_id": "mine"}
    bare = engine_gateway.post("/inference/v1/generate", json=asked | {"sampling_params": {"logprobs": None}}).json()
    assert (bare["prompt_token_ids"], bare["request_id"], bare["choices"][0]["logprobs"]) == ([5, 6, 7], "mine", None)
    models = engine_gateway.get("/v1/models").json()["data"]
    assert models[0]["id"] == "m" and models[0]["max_model_len"] == 200


def test_a_secret_is_asked_for_in_each_apis_way_and_health_is_open():
    with gateway(token="s3cret") as (address, _), httpx.Client(base_url=address) as http:
        assert http.get("/health").json() == {"status": "ok", "open": 0, "in_flight": 0}
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "s3cre"}, {"authorization": "Bearer s3cret!"}):
            refused = http.post(CHAT, json=HELLO, headers=headers)
            assert refused.status_code == 401 and "s3cret" not in refused.text
        assert http.post("/v1/messages", json={}).json()["error"]["type"] == "authentication_error"
        for headers in ({"authorization": "Bearer s3cret"}, {"x-api-key": "s3cret"}):
            assert http.post(CHAT, json=HELLO, headers=headers).status_code == 200
            assert http.get("/version", headers=headers).json()["weights"] == 0
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="nope", max_retries=0)
        with client, pytest.raises(openai.AuthenticationError, match="send the gateway's token"):
            client.models.list()


def test_without_a_secret_a_web_page_cannot_use_the_gateway(served):
    http, book = served
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}, {"origin": "null"}):
        refused = http.post(CHAT, json=HELLO, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_origin")
    assert http.post(CHAT, json=HELLO, headers={"origin": "http://localhost:3000"}).status_code == 200
    assert book.counts["strays"] == 1


def test_other_hosts_than_loopback_need_a_secret_and_the_address_must_be_free():
    with pytest.raises(ConfigError, match="PHRONESIS_GATEWAY_TOKEN"):
        GatewayConfig(host="0.0.0.0").validate(None)
    GatewayConfig(host="0.0.0.0").validate("secret")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        book = make_book()
        book.config = GatewayConfig(port=port)
        with pytest.raises(UserError, match=f"cannot listen at 127.0.0.1:{port}"), in_background(lambda: book):
            pass


def test_rewards_are_named_noted_once_and_final(served):
    http, book = served
    episode = opened(http, task="t")
    http.post(f"/episodes/{episode['id']}{CHAT}", json=HELLO).raise_for_status()

    def reward(**body):
        return http.post(f"/episodes/{episode['id']}/reward", json=body)

    assert reward(score=0.5).json() == {"id": episode["id"], "noted": 1, "repeated": 0, "reward": 0.5}
    assert reward(score=0.5).json()["repeated"] == 1
    assert reward(score=0.7).status_code == 409 and "given before (0.5)" in reward(score=0.7).text
    assert reward(score=0.7, change=True).json()["reward"] == 0.7
    assert reward(score=1.0, name="style", weight=0.1, turn=0).json()["reward"] == pytest.approx(0.8)
    assert reward(score=9.0, name="seen", audit=True).json()["reward"] == pytest.approx(0.8)
    parts = [{"name": "a", "score": 1.0}, {"name": "b", "score": 2.0, "weight": 0.5}]
    assert reward(components=parts).json()["reward"] == pytest.approx(2.8)
    for wrong in ({"score": 1.0, "turn": 5}, {"score": None}, {"score": "high"}, {"score": 1, "components": parts}, {}):
        assert reward(**wrong).status_code == 400
    nan = http.post(f"/episodes/{episode['id']}/reward", content=b'{"score": 1e999}')
    assert nan.status_code == 400
    end = http.post(f"/episodes/{episode['id']}/finish").json()
    assert end["state"] == "finished" and book.played[0].reward.value == pytest.approx(2.8)
    for late in (
        reward(score=1.0),
        http.post(f"/episodes/{episode['id']}/finish"),
        http.post(f"/episodes/{episode['id']}{CHAT}", json=HELLO),
    ):
        assert late.status_code == 409 and "is over (completed) and recorded with reward 2.8" in late.text
        assert late.headers["x-should-retry"] == "false"
    assert http.get(f"/episodes/{episode['id']}").json() == end


def test_faults_are_reported_and_never_rewarded(served):
    http, book = served
    broken, gone = opened(http), opened(http)
    both = http.post(f"/episodes/{broken['id']}/finish", json={"stop": "env_fault", "reward": 1.0})
    assert both.status_code == 400 and "cannot be rewarded" in both.text
    http.post(f"/episodes/{broken['id']}/reward", json={"score": 1.0})
    http.post(
        f"/episodes/{broken['id']}/finish", json={"stop": "env_fault", "message": "the shop burnt down"}
    ).raise_for_status()
    assert http.post(f"/episodes/{gone['id']}/finish", json={"stop": "exploded"}).status_code == 400
    http.post(f"/episodes/{gone['id']}/finish", json={}).raise_for_status()
    fault, silent = book.played
    assert (fault.stop, fault.reward, fault.failure.message) == (Stop.env_fault, None, "the shop burnt down")
    assert (silent.stop, silent.reward) == (Stop.completed, None) and book.counts["unrewarded"] == 1


def test_an_episode_left_alone_ends_as_a_timeout_without_a_reward():
    with gateway(idle_seconds=0.2) as (address, book), httpx.Client(base_url=address) as http:
        episode, rewarded = opened(http), opened(http)
        http.post(f"/episodes/{rewarded['id']}/reward", json={"score": 1.0})
        until = time.monotonic() + 10
        while len(book.played) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert http.post(f"/episodes/{episode['id']}{CHAT}", json=HELLO).status_code == 409
    assert {e.id: (e.stop, e.reward and e.reward.value) for e in book.played} == {
        episode["id"]: (Stop.timeout, None),
        rewarded["id"]: (Stop.timeout, 1.0),
    }
    assert book.counts["idle"] == 2 and book.counts["unrewarded"] == 1


def test_too_many_requests_and_episodes_are_told_when_to_come_again():
    with gateway(delay=0.5, concurrency=1, max_open=2) as (address, _), httpx.Client(base_url=address, timeout=30) as http:
        opened(http), opened(http)
        full = http.post("/episodes", json={})
        assert (full.status_code, full.headers["retry-after"]) == (429, "1")

        async def two():
            async with httpx.AsyncClient(base_url=address, timeout=30) as at_once:
                return [r.status_code for r in await asyncio.gather(*(at_once.post(CHAT, json=HELLO) for _ in range(2)))]

        assert sorted(asyncio.run(two())) == [200, 429]
        with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=5) as client:
            assert client.chat.completions.create(**HELLO).choices


def test_a_client_that_leaves_while_sampling_leaves_nothing_behind():
    with gateway(delay=0.4) as (address, book), httpx.Client(base_url=address, timeout=30) as http:
        episode = opened(http)
        path = f"/episodes/{episode['id']}{CHAT}"
        with pytest.raises(httpx.ReadTimeout):
            http.post(path, json=HELLO, timeout=0.1)
        http.post(path, json=HELLO).raise_for_status()
        end = http.post(f"/episodes/{episode['id']}/finish", json={"reward": 1.0}).json()
    assert end["counts"] == {"cancelled": 1} and len(prove(book.played[0]).turns) == 1


def test_a_stream_cut_inside_a_tool_call_is_asked_again_and_counts_once():
    """The client reads until the call has begun and hangs up; its retry is what the episode goes on with."""
    with gateway() as (address, book):
        with httpx.Client(base_url=address, timeout=30) as http:
            episode = opened(http)
        path = f"{address}/episodes/{episode['id']}"
        asked = HELLO | {"tools": [LOOK_UP], "stream": True}
        with httpx.Client(timeout=30) as one, one.stream("POST", f"{path}{CHAT}", json=asked) as response:
            for line in response.iter_lines():
                if "tool_calls" in line:
                    break
        with openai.OpenAI(base_url=f"{path}/v1", api_key="x") as client:
            messages = list(HELLO["messages"])
            first = client.chat.completions.create(model="m", messages=messages, tools=[LOOK_UP]).choices[0].message
            call = first.tool_calls[0]
            result = {"role": "tool", "tool_call_id": call.id, "content": run_tool("look_up", call.function.arguments)}
            messages += [first, result]
            last = client.chat.completions.create(model="m", messages=messages, tools=[LOOK_UP]).choices[0].message
        end = httpx.post(f"{path}/finish", json={"reward": 1.0}).json()
    assert last.content == "It costs 5."
    assert end["requests"] == {"opened": 1, "forked": 1, "extended": 1}
    record = prove(book.played[0])
    assert [t.parent for t in record.turns] == [None, 0]
    assert end["counts"].get("superseded", 0) + end["counts"].get("undelivered", 0) >= 1


@pytest.mark.parametrize("fault", [PolicyFault("the engine is out of memory"), RuntimeError("a bug with secrets")])
def test_a_policy_that_fails_is_told_without_a_traceback_and_can_be_asked_again(fault, caplog):
    replies = [fault, says(said("It costs 5."))]
    with gateway(replies) as (address, book), httpx.Client(base_url=address) as http:
        episode = opened(http)
        path = f"/episodes/{episode['id']}{CHAT}"
        refused = http.post(path, json=HELLO)
        assert refused.status_code in (500, 503) and "secrets" not in refused.text
        assert http.post(path, json=HELLO).status_code == 200
        end = http.post(f"/episodes/{episode['id']}/finish", json={"reward": 1.0}).json()
    assert end["counts"] == {"faults": 1} and len(prove(book.played[0]).turns) == 1


def test_a_policy_that_hangs_or_lies_about_its_prompt_is_an_error_of_the_gateway():
    slow = Limits(policy_seconds=0.1)
    with gateway(delay=5.0, limits=slow) as (address, _):
        assert httpx.post(f"{address}{CHAT}", json=HELLO).status_code == 504

    class Liar(ScriptedPolicy):
        async def sample(self, prompt, params):
            return await super().sample((*prompt, 1), params)

    with gateway(policy=Liar([says(said("x"))], vocab_size=len(TOKENIZER))) as (address, _):
        answer = httpx.post(f"{address}{CHAT}", json=HELLO)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "token_mismatch")


def test_requests_in_flight_when_an_episode_is_finished_come_to_nothing():
    with gateway(delay=0.3) as (address, book):

        async def both():
            async with httpx.AsyncClient(base_url=address, timeout=30) as http:
                episode = (await http.post("/episodes", json={})).json()
                asking = asyncio.create_task(http.post(f"/episodes/{episode['id']}{CHAT}", json=HELLO))
                await asyncio.sleep(0.1)
                end = await http.post(f"/episodes/{episode['id']}/finish", json={"reward": 1.0})
                return end.status_code, (await asking).status_code

        assert asyncio.run(both()) == (200, 409)
    assert book.played[0].turns == ()


def test_stopping_the_gateway_ends_what_is_open_as_cancelled():
    with gateway() as (address, book), httpx.Client(base_url=address) as http:
        episode = opened(http)
    assert [(e.id, e.stop) for e in book.played] == [(episode["id"], Stop.cancelled)]


def test_the_overview_counts_what_happened(served):
    http, _ = served
    episode = opened(http, task={"id": "fig", "payload": {"a": 1}, "split": "heldout"}, seed=4, group="g")
    assert (episode["task"]["payload"], episode["task"]["split"], episode["seed"], episode["group"]) == (
        {"a": 1},
        "heldout",
        4,
        "g",
    )
    http.post(f"/episodes/{episode['id']}{CHAT}", json=HELLO).raise_for_status()
    assert http.get("/episodes").json()["open"][0]["turns"] == 1
    http.post(f"/episodes/{episode['id']}/finish", json={"reward": 1.0}).raise_for_status()
    counts = http.get("/episodes").json()["counts"]
    assert (counts["episodes"], counts["kind_opened"]) == (1, 1)


def test_the_library_does_not_need_the_clients():
    """The SDKs are for tests alone."""
    code = (
        "import sys, phronesis.gateway, phronesis.cli.gateway; print([m for m in ('openai', 'anthropic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
