"""Runs in OpenEnv's environment: a server of two small worlds, made with its tools, and a client of its own."""

import asyncio
import json
import random
import sys

import uvicorn
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State
from openenv.core.generic_client import GenericEnvClient


class Say(Action):
    message: str


class Move(Action):
    row: int
    column: int


class Heard(Observation):
    text: str = ""


class Guess(Environment):
    """Guess a number; half a point for every answer that is a number in range."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, **options):
        self.secret, self.count = random.Random(seed).randrange(1, 11), 0
        return Heard(text="Guess a number from 1 to 10.")

    def step(self, action, timeout_s=None, **options):
        self.count += 1
        if action.message == "crash":
            raise RuntimeError("the world is on fire")
        if not action.message.isdigit():
            return Heard(text="that is no number", reward=-0.25)
        guess = int(action.message)
        if guess == self.secret:
            return Heard(text="correct", reward=1.0, done=True)
        return Heard(text="higher" if guess < self.secret else "lower", reward=0.0)

    @property
    def state(self):
        return State(step_count=self.count, secret=self.secret)


class Board(Environment):
    """Find the one marked field of a board; its observation has two fields."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, **options):
        source = random.Random(seed)
        self.place = (source.randrange(3), source.randrange(3))
        return Seen(near=False, tries=0)

    def step(self, action, timeout_s=None, **options):
        off = abs(action.row - self.place[0]) + abs(action.column - self.place[1])
        return Seen(near=off == 1, tries=1, reward=float(off == 0), done=off == 0)

    @property
    def state(self):
        return State(place=self.place)


class Seen(Observation):
    near: bool
    tries: int


def serve(port: int) -> None:
    kind = {"guess": (Guess, Say, Heard), "board": (Board, Move, Seen)}[sys.argv[2]]
    app = create_fastapi_app(*kind, max_concurrent_envs=8)
    uvicorn.run(app, port=port, log_level="warning")


async def play(url: str) -> None:
    """Guesses by halving in a served world, with the package's own client; prints what it saw."""
    results = []
    for index in range(20):
        async with GenericEnvClient(base_url=url) as env:
            found = await env.reset(seed=index, split="heldout", index=index)
            opening, rewards, low, high = found.observation["messages"][-1]["content"], [], 0, 19
            while not found.done:
                guess = (low + high) // 2
                call = {"name": "guess", "arguments": {"number": guess}}
                found = await env.step({"tool_calls": [call]})
                said = found.observation["messages"][0]["content"]
                low, high = (guess + 1, high) if "higher" in said else (low, guess - 1)
                rewards.append(found.reward)
            state = await env.state()
            results.append({"opening": opening, "rewards": rewards, "steps": state["step_count"], "state": sorted(state)})
    async with GenericEnvClient(base_url=url) as env:
        try:
            await env.step({"message": "too early"})
        except RuntimeError as error:
            results.append({"early": str(error)})
        try:
            await env.reset(seed=0)
            await env.step({"shout": "HEY"})
        except RuntimeError as error:
            results.append({"wrong": str(error)})
    print(json.dumps(results))


if __name__ == "__main__":
    if sys.argv[1] == "play":
        asyncio.run(play(sys.argv[2]))
    else:
        serve(int(sys.argv[3]))
