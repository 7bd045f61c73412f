"""Whole evaluations over HTTP: the known optimum comes out whatever the format and whatever goes wrong on the way.

Pinned: success and reward of a perfect player over all ten numbers; turns have no ids and say what they took; faults are
retried, never rewarded and never doubled; a dead endpoint is an infrastructure fault; the command prints what it cost.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from oracle_server import OPTIMUM, Oracle, closed_in_call, cut_in_call, not_a_number, without_end
from scripted_server import Heard, Said, Script, events, serving, serving_apart

from phronesis.chat.wire.anthropic_stream import stream_error
from phronesis.cli.main import main
from phronesis.data.sources import SpecTasks
from phronesis.engine.endpoint import Endpoint, EndpointConfig, EndpointFormat, Price
from phronesis.engine.endpoints import connect
from phronesis.engine.http import HttpLimits
from phronesis.envs import registry
from phronesis.errors import AllFaulted
from phronesis.evals.run import EvalSummary, evaluate
from phronesis.reason.react import ReAct
from phronesis.records import Episode, Stop
from phronesis.rollout.messages import message_stage

FORMATS: tuple[EndpointFormat, ...] = ("openai", "responses", "anthropic")
LIMITS = HttpLimits(attempts=8, first_wait=0.0, attempt_seconds=2.0, concurrency=8)


async def played(script: Script, **settings: Any) -> tuple[EvalSummary, list[Episode], Endpoint]:
    """The ten numbers of `guess`, played by whoever the script is."""
    spec = registry.get("guess", {})
    async with serving(script) as server:
        config = EndpointConfig(model="oracle", url=server.url, http=LIMITS, **settings)
        policy = connect(config)
        stage = message_stage(spec, policy, ReAct())
        summary, episodes = await evaluate(stage, SpecTasks(spec, "heldout", 0).draw(10), seed=0, name="e", concurrency=8)
        return summary, episodes, policy


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("format", FORMATS)
async def test_a_perfect_player_earns_the_optimum(format: EndpointFormat, stream: bool):
    oracle = Oracle()
    prices = {"oracle-1": Price(input=1.0, output=10.0, cached=0.5)}
    summary, episodes, policy = await played(oracle, format=format, stream=stream, prices=prices)
    assert summary.mean_reward == pytest.approx(OPTIMUM) and summary.success == 1.0 and summary.faults == 0
    turns = [turn for episode in episodes for turn in episode.turns]
    assert all(t.context == t.completion == t.logprobs == t.sampled == () for t in turns)
    assert len(turns) == oracle.asked == policy.account.answers == 1 + 2 * 2 + 4 * 3 + 3 * 4
    each = (40 * 1.0 + 60 * 0.5 + 10 * 10.0) / 1e6
    assert all(t.usage is not None and t.usage.cost == pytest.approx(each) for t in turns)
    assert policy.account.usage.cost == pytest.approx(29 * each)
    assert summary.mean_tokens == 10 * summary.mean_turns
    assert next(t.action.thought for t in turns if t.action is not None) == "between 0 and 9"
    assert all(msgspec.json.decode(msgspec.json.encode(e), type=Episode) == e for e in episodes)


WHOLE_FAULTS = [
    Said(429, headers={"retry-after": "0"}), Said(500), Said(drop=True), Said(delay=60.0), without_end, not_a_number, Said(503),
    Said(body=b"<html>try again</html>"), Said(body={"error": {"message": "busy"}}),
]  # fmt: skip
STREAM_FAULTS = [
    Said(429, headers={"retry-after-ms": "1"}), cut_in_call, Said(500), closed_in_call, Said(drop=True), not_a_number,
    Said(body={"no": "stream"}),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("format", FORMATS)
async def test_faults_on_the_way_change_no_result(format: EndpointFormat, stream: bool):
    oracle = Oracle(STREAM_FAULTS if stream else WHOLE_FAULTS, every=3 if format == "openai" else 1)
    summary, episodes, policy = await played(oracle, format=format, stream=stream)
    assert summary.mean_reward == pytest.approx(OPTIMUM) and summary.success == 1.0 and summary.faults == 0
    assert sum(len(e.turns) for e in episodes) == 29
    counts = policy.client.counts
    assert counts.attempts == 29 + sum(counts.retries.values()) and sum(counts.retries.values()) >= oracle.faulted >= 4
    assert policy.account.answers == 29 and policy.account.usage.cost is None


async def test_an_error_in_mid_stream_is_retried():
    oracle = Oracle([events(stream_error("overloaded").data, names=["error"])])
    summary, _, policy = await played(oracle, format="anthropic", stream=True)
    assert summary.mean_reward == pytest.approx(OPTIMUM)
    assert policy.client.counts.retries == {"stream_error": oracle.faulted}


async def test_an_endpoint_that_never_answers_is_a_fault_and_no_reward():
    with pytest.raises(AllFaulted, match=r"EndpointFault in policy\.chat: POST .* failed \(8 times\): 500"):
        await played([Said(500, {"error": "out of order"})])


async def test_an_endpoint_that_dies_costs_only_the_episodes_it_leaves():
    oracle = Oracle()

    def script(heard: Heard) -> Said:
        return oracle(heard) if oracle.asked < 12 else Said(403, {"error": "credit used up"})

    summary, episodes, _ = await played(script)
    lost = [e for e in episodes if e.stop is Stop.infra_fault]
    assert summary.faults == len(lost) > 0 and summary.n + len(lost) == 10 and summary.success == 1.0
    assert all(e.failure is not None and "credit used up" in e.failure.message and e.reward is None for e in lost)


def test_the_command_evaluates_an_endpoint_and_says_what_it_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    monkeypatch.chdir(tmp_path)
    with serving_apart(Oracle([Said(500)], every=10)) as server:
        words = ["eval", f"openai:oracle@{server.url}", "env.name=guess", "--tasks", "10", "endpoint.key_env=MY_KEY"]
        words += ["endpoint.prices.any.input=1", "endpoint.prices.any.output=10", "endpoint.http.first_wait=0"]
        assert main(words) == 0
        text = capsys.readouterr().out
        assert main([*words, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
    assert server.heard[0].headers["authorization"] == "Bearer sk-secret"
    assert f"endpoint oracle@{server.url}" in text and "mean reward 0.810" in text
    assert (
        "cost 0.0058 (0.00058 per episode), tokens 2,900 in (60% cached) and 290 out, requests 32, retried 3 after 500" in text
    )
    assert told["result"]["mean_reward"] == pytest.approx(OPTIMUM)
    assert told["usage"]["cost"] == pytest.approx(29 * 200 / 1e6) and told["usage"]["output_tokens"] == 290
    assert told["requests"]["calls"] == 29 and "sk-secret" not in text + json.dumps(told)


def test_the_command_takes_the_endpoint_from_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    with serving_apart(Oracle()) as server:
        lines = ['format = "anthropic"', 'model = "oracle"', f'url = "{server.url}"', "stream = true"]
        Path("endpoint.toml").write_text("\n".join([*lines, '[prices."oracle-1"]', "input = 1.0", "output = 10.0"]))
        assert main(["eval", "endpoint.toml", "env.name=guess", "--tasks", "10", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["result"]["mean_reward"] == pytest.approx(OPTIMUM) and told["usage"]["cost"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("openai:@http://127.0.0.1:1/v1",), "names no model"),
        (("openai:m@http://127.0.0.1:1/v1", "--step", "3"), "is an endpoint, not a run"),
        (
            ("openai:m@http://127.0.0.1:1/v1", "endpoint.key_env=NO_SUCH_KEY"),
            "no key in the environment variable",
        ),
        (("openai:m@http://127.0.0.1:1/v1", "endpoint.strem=true"), "did you mean 'stream'"),
        (("openai:m@http://127.0.0.1:1/v1", "limits.thought_tokens=5"), "endpoint.effort"),
        (("openai:m@http://127.0.0.1:1/v1", "endpoint.headers.authorization=x"), "put the key into an environment variable"),
        (("runs/absent", "endpoint.stream=true"), "is a setting of an endpoint"),
        (("runs/absent", "--like", "runs/other"), "--like is for endpoints"),
    ],
)
def test_the_command_refuses_what_cannot_work(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", *words]) == 2
    assert said in capsys.readouterr().err
