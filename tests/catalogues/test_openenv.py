"""Pins: OpenEnv's own client plays our worlds, and we play worlds on its own server; rewards are the same on both sides."""

import asyncio
import json
import random
import socket
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest
from catalogue_worlds import HERE, played, python_of, saying
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from phronesis.env import EnvSpec
from phronesis.envs import registry
from phronesis.envs.adapters.openenv.server import application, serving
from phronesis.envs.scripted import silent
from phronesis.envs.trl_style import calling
from phronesis.errors import ConfigError, EnvFault
from phronesis.records import Message, Reply, Task, say
from phronesis.rewards import EnvReward

GAME = HERE / "openenv_game.py"


def running(kind: str) -> Iterator[str]:
    """The address of a server of the package, which serves a small world."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([python_of("openenv"), str(GAME), "serve", kind, str(port)])
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{address}/health")
                break
            except httpx.HTTPError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.2)
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def guess() -> Iterator[str]:
    yield from running("guess")


@pytest.fixture(scope="module")
def board() -> Iterator[str]:
    yield from running("board")


class Halving:
    """Guesses by halving."""

    def __init__(self):
        self.low, self.high, self.said = 1, 10, 0

    async def __call__(self, env, tools):
        assert tools == (), "one text field needs no tool"
        self.last = (self.low + self.high) // 2
        return say("assistant", str(self.last))


async def test_our_client_plays_their_server(guess: str):
    """Twenty episodes: the secret is that of the seed, the reward that of the server."""
    spec = registry.get("openenv", {"url": guess, "system": "Guess."})
    for index in range(20):
        secret = random.Random(2 * index).randrange(1, 11)
        wrong = 1 if secret != 1 else 2
        found, reward = await played(spec, saying(str(wrong), "nine", str(secret)), index)
        assert [m.text for m in found.opening.messages] == ["Guess.", "Guess a number from 1 to 10."]
        heard = ["higher" if wrong < secret else "lower", "that is no number", "correct"]
        assert [r.messages[-1].text for r in found.replies] == heard
        assert [r.reward for r in found.replies] == [0.0, -0.25, 1.0]
        assert reward == 0.75
        assert str(found.opening).count(str(2 * index)) == 0 or 2 * index <= 10, "the seed is told to nobody"


async def test_splits_never_share_a_seed(guess: str):
    spec = registry.get("openenv", {"url": guess})
    seeds = [{spec.task(split, i).payload["seed"] for i in range(100)} for split in ("train", "heldout")]
    assert not seeds[0] & seeds[1]


async def test_a_world_that_breaks_is_a_fault_and_no_reward(guess: str):
    spec = registry.get("openenv", {"url": guess})
    with pytest.raises(EnvFault, match="EXECUTION_ERROR: the world is on fire"):
        await played(spec, saying("crash"))


async def test_actions_of_several_fields_are_calls_of_a_tool(board: str):
    """The nine fields in order: the marked one ends the episode, wrong arguments are answered and counted."""
    spec = registry.get("openenv", {"url": board})
    for index in range(20):
        source = random.Random(2 * index)
        row, column = source.randrange(3), source.randrange(3)
        acts = [
            say("assistant", "I think."),
            calling("act", {"row": "up", "column": 0}),
            calling("act", {"row": row, "column": column}),
        ]
        left = iter(acts)

        async def speak(env, tools, left=left):
            assert [t.name for t in tools] == ["act"]
            assert sorted(tools[0].parameters["properties"]) == ["column", "row"]
            return next(left)

        found, reward = await played(spec, speak, index)
        assert [r.errors for r in found.replies] == [("no_action",), ("bad_action",), ()]
        assert "row" in found.replies[1].messages[0].text and found.replies[1].messages[0].role == "tool"
        assert json.loads(found.replies[2].messages[0].text) == {"near": False, "tries": 1}
        assert reward == 1.0


async def test_their_client_plays_our_world():
    """Twenty tasks of `guess` by the package's own client: rewards add up to what our rubric gives, the state tells nothing."""
    python = python_of("openenv")
    spec = registry.get("guess", {"high": 19, "calls": 8})
    async with serving(spec) as address:
        process = await asyncio.create_subprocess_exec(
            python, str(GAME), "play", address, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]
    *episodes, early, wrong = json.loads(out)
    assert len(episodes) == 20
    for episode in episodes:
        assert sum(r or 0 for r in episode["rewards"]) == pytest.approx(1 - 0.1 * (episode["steps"] - 1))
        assert episode["state"] == ["episode_id", "step_count"]
        assert "from 0 to 19" in episode["opening"]
    assert "there is no episode" in early["early"] and "EXECUTION_ERROR" in early["early"]
    assert "shout" in wrong["wrong"] and "VALIDATION_ERROR" in wrong["wrong"]


async def test_frames_of_a_raw_socket():
    """Every code that the server gives, and what it tells of itself."""
    spec = registry.get("guess")
    async with serving(spec, most=1) as address, httpx.AsyncClient(base_url=address) as pages:
        assert (await pages.get("/health")).json() == {"status": "healthy"}
        assert (await pages.get("/metadata")).json()["name"] == "guess"
        assert sorted((await pages.get("/schema")).json()) == ["action", "observation", "state"]
        splits = (await pages.get("/guess/splits")).json()
        assert splits == [{"name": "train", "num_tasks": 10}, {"name": "heldout", "num_tasks": 10}]
        async with connect(address.replace("http", "ws") + "/ws", proxy=None) as first:

            async def ask(text: str) -> dict:
                await first.send(text)
                return json.loads(await first.recv())

            assert (await ask("{"))["data"]["code"] == "INVALID_JSON"
            assert (await ask('{"type": "mcp"}'))["data"]["code"] == "UNKNOWN_TYPE"
            assert (await ask("[]"))["data"]["code"] == "UNKNOWN_TYPE"
            assert (await ask('{"type": "reset", "data": {"split": "secret"}}'))["data"]["code"] == "VALIDATION_ERROR"
            assert (await ask('{"type": "reset", "data": {"index": 10}}'))["data"]["code"] == "VALIDATION_ERROR"
            assert (await ask('{"type": "step", "data": {}}'))["data"]["code"] == "EXECUTION_ERROR"
            assert (await ask('{"type": "reset", "data": {"seed": 3}}'))["data"]["done"] is False
            assert (await ask('{"type": "state"}'))["data"] == {"episode_id": None, "step_count": 0}
            async with connect(address.replace("http", "ws") + "/ws", proxy=None) as second:
                assert json.loads(await second.recv())["data"]["code"] == "CAPACITY_REACHED"


class Leaky:
    """A world that tells what is hidden when it breaks, and one that hangs."""

    async def reset(self, task: Task, seed: int) -> Reply:
        return Reply(messages=(say("user", "Break me."),))

    async def step(self, action: Message) -> Reply:
        if action.text == "hang":
            await asyncio.sleep(60)
        raise EnvFault("expected the answer xyzzy")

    async def close(self) -> None:
        pass


async def test_hostile_frames():
    """Bytes, floods of calls and pages from elsewhere are refused; what a world says when it breaks stays here."""
    spec = EnvSpec(name="leaky", make=Leaky, task=lambda split, i: Task(id=f"{split}-{i}", env="leaky"), rubric=EnvReward())
    async with serving(spec, seconds=0.5) as address:
        place = address.replace("http", "ws") + "/ws"
        with pytest.raises(InvalidStatus):
            await connect(place, proxy=None, origin=Origin("http://elsewhere.example"))
        async with connect(place, proxy=None, origin=Origin("http://localhost:3000")) as socket:

            async def ask(frame: str | bytes) -> dict:
                await socket.send(frame)
                return json.loads(await socket.recv())

            begin = '{"type": "reset", "data": {"seed": 1, "episode_id": "\\ud800"}}'
            assert (await ask(b"\xff\x00"))["data"]["code"] == "INVALID_JSON"
            assert (await ask(b""))["data"]["code"] == "INVALID_JSON"
            assert (await ask("[" * 100_000))["data"]["code"] == "INVALID_JSON"
            assert (await ask(begin))["type"] == "observation"
            assert (await ask('{"type": "state"}'))["data"]["episode_id"] == "\ud800"
            calls = json.dumps({"type": "step", "data": {"tool_calls": [{"name": "x"}] * 65}})
            assert (await ask(calls))["data"]["code"] == "VALIDATION_ERROR"
            for said, why in (("now", "failed with EnvFault"), ("hang", "failed with TimeoutError")):
                await ask(begin)
                told = await ask(json.dumps({"type": "step", "data": {"message": said}}))
                assert told["data"]["code"] == "EXECUTION_ERROR"
                assert why in told["data"]["message"] and "xyzzy" not in str(told)


async def test_our_client_plays_our_server():
    """Both ends: the same world played directly and over the wire earns the same."""
    spec = registry.get("guess")
    async with serving(spec) as address:
        over = await asyncio.to_thread(registry.get, "openenv", {"url": address, "max_turns": 4})
        act = calling("act", {"tool_calls": [{"name": "guess", "arguments": {"number": 4}}]})
        rewards = []
        for index in range(10):

            async def speak(env, tools):
                return act

            rewards.append((await played(over, speak, index))[1])
    # the seed of task k is 2k, which the server takes as the number of the task, modulo ten: 0 2 4 6 8 0 2 4 6 8
    assert rewards == [0.0, 0.0, 1.0, 0.0, 0.0] * 2


async def test_what_cannot_be_reached_or_served_says_so():
    with pytest.raises(ConfigError, match=r"no OpenEnv server answers at http://127\.0\.0\.1:1"):
        registry.get("openenv", {"url": "http://127.0.0.1:1", "seconds": 1.0})
    with pytest.raises(ConfigError, match="is no address of an OpenEnv server"):
        registry.get("openenv", {"url": "localhost:8000"})
    with pytest.raises(ConfigError, match="is played by agents outside"):
        application(registry.get("outside"))
    with pytest.raises(ConfigError, match="the protocol knows no password"):
        async with serving(registry.get("guess"), host="0.0.0.0"):
            pass


async def test_silence_ends_where_turns_do(guess: str):
    spec = registry.get("openenv", {"url": guess, "max_turns": 3})
    found, reward = await played(spec, silent())
    assert len(found.replies) == 3 and reward == -0.75
