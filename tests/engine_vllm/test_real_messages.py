"""A message-only policy on the real vLLM server: greedy episodes are those the same weights play by ids, token counts too."""

from __future__ import annotations

import pytest
from vllm_worlds import CHAT, TOKENIZER, Maze, Player, maze

from phronesis.data.sources import SpecTasks
from phronesis.engine.endpoint import EndpointConfig, Price
from phronesis.engine.endpoints import connect
from phronesis.engine.http import HttpClient
from phronesis.evals.run import evaluate
from phronesis.policy import SamplingParams
from phronesis.reason.react import ReAct
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.messages import message_stage
from phronesis.rollout.play import Stage

LIMITS = Limits(max_turns=Maze.turns, max_turn_tokens=12)
GREEDY = Sampling(temperature=0.0)
SAMPLE = SamplingParams(max_tokens=1)


def whole(text: object) -> str:
    """What is left of a text when bytes that are no character, which the server holds back, are left out."""
    return str(text).replace("\ufffd", "")


async def model_of(url: str) -> str:
    """The name the server gives its model."""
    client = HttpClient(url)
    listed = await client.get("/models")
    await client.close()
    assert isinstance(listed, dict)
    return listed["data"][0]["id"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_evaluation_by_messages(player: Player, stream: bool):
    await player.engine.sample((40, 41), SAMPLE)  # the server holds these weights from here on
    spec, tasks = maze(), SpecTasks(maze(), "heldout", 0).draw(8)
    url = f"{player.engine.fleet.servers[0].url}/v1"
    config = EndpointConfig(
        model=await model_of(url), url=url, stream=stream, body={"top_k": -1}, prices={"any": Price(input=1.0, output=2.0)}
    )
    policy = connect(config)
    stage = message_stage(spec, policy, ReAct(), limits=LIMITS, sampling=GREEDY)
    summary, episodes = await evaluate(stage, tasks, seed=0, name="messages", concurrency=8)
    by_ids = Stage(spec=spec, policy=player.here, chat=CHAT, agent=ReAct(), limits=LIMITS, sampling=GREEDY)
    _, expected = await evaluate(by_ids, tasks, seed=0, name="ids", concurrency=8)
    turns = [turn for episode in episodes for turn in episode.turns]
    assert summary.faults == 0 and len(turns) == 8 * Maze.turns
    assert all(t.usage is not None and 0 < t.usage.output_tokens <= 12 and t.completion == () for t in turns)
    first = [(e.turns[0], o.turns[0]) for e, o in zip(episodes, expected, strict=True)]
    assert all(a.usage is not None and a.usage.input_tokens == len(o.context) for a, o in first)
    shown = [whole(TOKENIZER.decode(o.completion, skip_special_tokens=True)) for _, o in first]
    told = [whole(a.action.text) for a, _ in first if a.action is not None]
    assert sum(a == o for a, o in zip(told, shown, strict=True)) >= 7, (told, shown)  # greedy: the same, but for a tie
    assert sum(a.usage is not None and a.usage.output_tokens == len(o.completion) for a, o in first) >= 7
    assert policy.account.answers == len(turns)
    spent = sum(t.usage.input_tokens + 2 * t.usage.output_tokens for t in turns if t.usage is not None)
    assert policy.account.usage.cost == pytest.approx(spent / 1e6)
