"""MiniWoB pages through our browser: scripted players on every page they know, and the page's own verdict."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random

import pytest

from phronesis.envs import registry
from phronesis.envs.adapters import miniwob
from phronesis.envs.adapters.miniwob_solvers import SOLVERS
from phronesis.envs.scripted import Clock, expert, play_scripted, reward_of
from phronesis.envs.trl_style import calling
from phronesis.errors import ConfigError, UnknownName
from phronesis.tools.browser import Request, chromium, worker

MISSING = "no chromium" if not any(os.access(p, os.X_OK) for p in chromium.PLACES) else ""
for package in ("playwright", "miniwob"):
    MISSING = MISSING or ("" if importlib.util.find_spec(package) else f"not installed: {package}")
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "-")

WRONG = calling("click", {"id": 1})


async def verdict(env):
    """What the page itself says."""
    return await env.view.evaluate("() => [WOB_DONE_GLOBAL, WOB_RAW_REWARD_GLOBAL]")


@pytest.mark.parametrize("page", SOLVERS)
def test_a_scripted_player_solves(page):
    """Reward 1, and the page agrees."""

    async def run():
        spec = miniwob.miniwob(page)
        env = spec.make()
        reply = await env.reset(spec.task("heldout", 0), 0)
        said = reply.messages[-1].text
        for _ in range(spec.max_turns):
            reply = await env.step(await env.expert())
            if reply.done:
                break
        own = await verdict(env)
        await env.close()
        return said, reply, own

    said, reply, own = asyncio.run(run())
    assert said.startswith("Do what the page asks for.") and "Page: " in said
    assert reply.done and own == [True, reply.metrics["raw"]] and reply.reward == reply.metrics["raw"] == 1.0


def test_wrong_answers_earn_nothing_and_the_page_says_so():
    async def run():
        spec = miniwob.miniwob("login-user")
        env = spec.make()
        await env.reset(spec.task("train", 0), 0)
        button = next(e for e in env.view.outline.elements if e.label == "Login")
        reply = await env.step(calling("click", {"id": button.id}))
        own = await verdict(env)
        await env.close()
        return reply, own

    reply, own = asyncio.run(run())
    assert own == [True, -1] and (reply.done, reply.reward, reply.metrics) == (True, 0.0, {"raw": -1.0})


def test_an_episode_that_is_left_is_lost():
    """A page that was loaded anew deals itself an episode that nobody seeded."""

    async def run():
        spec = miniwob.miniwob("click-test")
        env = spec.make()
        opening = await env.reset(spec.task("train", 0), 0)
        assert "goto" not in [t.name for t in opening.tools]
        await env.view.fetch(env.view.url)
        await env.view.evaluate("() => { core.startEpisodeReal(); core.endEpisode(1); }")
        reply = await env.step(calling("scroll", {"direction": "down"}))
        await env.close()
        return reply

    reply = asyncio.run(run())
    assert (reply.done, reply.reward) == (True, 0.0)


def test_tasks_and_names():
    spec = registry.get("miniwob")
    found = {split: [spec.task(split, i) for i in range(60)] for split in spec.sizes}
    assert not {t.content_key for t in found["train"]} & {t.content_key for t in found["heldout"]}
    assert {t.payload["page"] for t in found["train"]} == set(miniwob.DEFAULT)
    assert len(miniwob.pages()) == 130 and set(SOLVERS) <= set(miniwob.pages()) and len(SOLVERS) >= 20
    with pytest.raises(UnknownName, match="click-tset"):
        registry.get("miniwob", {"page": "click-tset"})
    assert registry.get("miniwob", {"page": "all"}).oracle_reward is None


def test_equal_seeds_give_equal_pages_and_silence_earns_nothing():
    async def run():
        spec = miniwob.miniwob("click-checkboxes")
        played = [await play_scripted(spec, spec.task("train", i), 0, expert(), clock=Clock(30)) for i in (3, 3, 4)]
        return [p.opening.messages for p in played], [(await reward_of(spec, p.episode)).value for p in played]

    openings, rewards = asyncio.run(run())
    assert openings[0] == openings[1] != openings[2] and rewards == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("page", miniwob.DEFAULT)
def test_what_was_done_to_a_page_that_stayed_open_does_not_show(page):
    """The same words for the same acts on a page that was never used, and on one that others have used."""
    spec = miniwob.miniwob(page)

    async def play(index):
        env, source = spec.make(), random.Random(index)
        said = [(await env.reset(spec.task("train", index), 0)).messages]
        slot = env.view.slot
        for _ in range(4):
            element = source.choice(env.view.outline.elements)
            words = {"id": element.id, "text": "Ada"} if element.role == "field" else {"id": element.id}
            reply = await env.step(calling("type" if element.role == "field" else "click", words))
            said.append((reply.messages, reply.done, reply.reward, reply.state_key))
            if reply.done:
                break
        await env.close()
        return said, slot

    async def run():
        fresh = []
        for index in range(2):
            worker.shared().idle.clear()
            fresh.append((await play(index))[0])
        used = [await play(index) for index in (1, 0)]
        if used[0][1] is not used[1][1]:  # the worker was due for a fresh browser in between
            used = [await play(index) for index in (1, 0)]
        return fresh, used[::-1]

    fresh, used = asyncio.run(run())
    assert [said for said, _ in used] == fresh
    assert len({id(slot) for _, slot in used}) == 1


def test_only_the_pages_are_served(tmp_path):
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "a.html").write_text("<p>é", encoding="utf-8")
    (tmp_path / "html-secret").write_text("secret", encoding="utf-8")
    (tmp_path / "html" / "link").symlink_to(tmp_path / "html-secret")
    site = miniwob.serve(tmp_path / "html")
    assert site(Request(method="GET", path="/a.html")).media_type == "text/html; charset=utf-8"
    for path in ("/../html-secret", "/link", "/", "/nothing", "//etc/passwd", "/..%2fhtml-secret"):
        assert site(Request(method="GET", path=path)).status == 404
    assert site(Request(method="POST", path="/a.html")).status == 404


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'phronesis\[miniwob\]'") as caught:
        registry.get("miniwob")
    assert caught.value.__cause__.name == "miniwob"
