"""Agents that ask a training run for work and play it through the `openai` SDK, in threads of their own."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, contextmanager

import httpx
import msgspec
import openai

from phronesis.chat.wire import openai_chat
from phronesis.records import Task
from phronesis.seeding import stream


@asynccontextmanager
async def clients(address):
    """For the gateway's own routes, and the SDK; made once, since that takes longer than an episode."""
    async with (
        httpx.AsyncClient(base_url=address, timeout=60) as http,
        openai.AsyncOpenAI(base_url=address, api_key="x", max_retries=0) as client,
    ):
        yield http, client


async def mirror(spec, address, stop, max_turns):
    """Plays an environment of ours as an outside agent would: the world is on this side of the wire."""
    async with clients(address) as (http, client):
        while not stop.is_set():
            given = await http.post("/episodes", json={"wait": 2})
            if given.status_code == 410:
                return
            if given.status_code != 201:
                assert given.status_code == 429, given.text
                continue
            episode = given.json()
            await play(spec, http, client.with_options(base_url=episode["base_url"]), episode, max_turns)


async def play(spec, http, client, episode, max_turns):
    env = spec.make()
    reply = await env.reset(msgspec.convert(episode["task"], Task), stream(episode["seed"], "env"))
    messages = [openai_chat.write_message(m) for m in reply.messages]
    tools = {"tools": [openai_chat.write_tool(t) for t in reply.tools]} if reply.tools else {}
    turn, rewarded = 0, False
    while not reply.done and turn < max_turns:
        answer = await client.chat.completions.create(model="any", messages=messages, **tools)
        action = openai_chat.read_answer(answer.model_dump()).message
        messages.append(answer.choices[0].message.model_dump(exclude_none=True))
        reply = await env.step(action)
        messages += [openai_chat.write_message(m) for m in reply.messages]
        if reply.reward is not None:
            rewarded = True
            score = {"name": "env", "score": reply.reward, "turn": turn}
            (await http.post(f"/episodes/{episode['id']}/reward", json=score)).raise_for_status()
        turn += 1
    await env.close()
    end = {} if reply.done else {"stop": "max_turns"}
    end |= {} if rewarded else {"reward": 0.0}
    (await http.post(f"/episodes/{episode['id']}/finish", json=end)).raise_for_status()


@contextmanager
def agents(n, run):
    """`n` agents at once, each ``run(stop)`` in one thread with one event loop; what one raises is raised here."""
    stop, raised = threading.Event(), []

    async def all_of_them():
        await asyncio.gather(*(run(stop) for _ in range(n)))

    def thread():
        try:
            asyncio.run(all_of_them())
        except Exception as error:
            raised.append(error)

    worker = threading.Thread(target=thread, daemon=True)
    worker.start()
    try:
        yield stop
    finally:
        stop.set()
        worker.join(30)
    assert not worker.is_alive()
    if raised:
        raise raised[0]
