"""An agent as you may have one already: the `openai` SDK, a tool, a loop. It knows nothing of Phronesis but its address.

    python agent.py http://127.0.0.1:8300

It asks the gateway for work, plays each task with its own tool, says what the answer was worth, and stops when the run is
over. `ask` is the agent itself; pointed at another base URL it runs against any other model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random

import httpx
import openai

ITEMS = ("apple", "bean", "corn", "date", "fig", "grape", "honey", "kale", "leek", "mint", "nut", "oat")
FACTS = ("price", "stock", "shelf")
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "One fact about an item.",
        "parameters": {
            "type": "object",
            "properties": {"fact": {"type": "string"}, "item": {"type": "string"}},
            "required": ["fact", "item"],
        },
    },
}


class Pantry:
    """The agent's own world: a list of items with three facts each, and a question about one of them.

    Every fourth pair of item and fact is asked about in held-out tasks only.
    """

    def __init__(self, split: str, index: int) -> None:
        chance = random.Random(f"{split}-{index}")
        pairs = [(item, fact) for item in ITEMS for fact in FACTS]
        held_out = pairs[::4]
        self.item, self.fact = chance.choice(held_out if split == "heldout" else [p for p in pairs if p not in held_out])
        self.list = {item: {fact: chance.randrange(10) for fact in FACTS} for item in ITEMS}

    @property
    def question(self) -> str:
        return f"What is the {self.fact} of {self.item}?"

    def look_up(self, fact: str, item: str) -> str:
        return str(self.list.get(item, {}).get(fact, "not on the list"))

    def score(self, answer: str) -> float:
        return float(answer.strip() == str(self.list[self.item][self.fact]))


async def ask(client: openai.AsyncOpenAI, pantry: Pantry, most_turns: int = 3) -> str:
    """The agent: calls the tool until it has an answer."""
    messages: list[dict[str, object]] = [{"role": "user", "content": pantry.question}]
    for _ in range(most_turns):
        reply = await client.chat.completions.create(model="gpt-4o-mini", messages=messages, tools=[TOOL])
        message = reply.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return message.content or ""
        for call in message.tool_calls:
            arguments = json.loads(call.function.arguments)
            result = pantry.look_up(str(arguments.get("fact")), str(arguments.get("item")))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return ""


async def work(gateway: httpx.AsyncClient, client: openai.AsyncOpenAI) -> None:
    """Plays what the run needs until it needs no more."""
    while True:
        given = await gateway.post("/episodes", json={"wait": 10})
        if given.status_code == 429:  # the run is learning: ask again
            continue
        if given.status_code == 410:
            return
        episode = given.raise_for_status().json()
        task = episode["task"]
        pantry = Pantry(task["split"], task["payload"]["index"])
        answer = await ask(client.with_options(base_url=episode["base_url"]), pantry)
        end = {"reward": pantry.score(answer)}
        (await gateway.post(f"/episodes/{episode['id']}/finish", json=end)).raise_for_status()


async def main(address: str, at_once: int, token: str) -> None:
    """`at_once` copies of the agent, until the run is over."""
    limits = httpx.Limits(max_connections=None)
    headers = {"authorization": f"Bearer {token}"}
    async with (
        httpx.AsyncClient(base_url=address, timeout=600, limits=limits, headers=headers) as gateway,
        openai.AsyncOpenAI(base_url=address, api_key=token) as client,
    ):
        try:
            await asyncio.gather(*(work(gateway, client) for _ in range(at_once)))
        except (httpx.TransportError, openai.APIConnectionError):
            print("the gateway is gone: the run is over")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("address", help="where the gateway listens")
    options.add_argument("--at-once", type=int, default=32, help="episodes played at once")
    options.add_argument("--token", default="unused", help="the gateway's secret, if it has one")
    given = options.parse_args()
    asyncio.run(main(given.address, given.at_once, given.token))
