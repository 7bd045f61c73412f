"""Runs whose episodes outside agents play: equal, bit for bit, to runs that play them; resumed; with the agents' own tasks;
when agents are missing, die or report faults."""

import asyncio
import json
import logging
import socket

import httpx
import lessons
import openai
import pytest
import tiny_jobs
from msgspec.structs import replace
from outside_agents import agents, clients, mirror

from phronesis.envs import registry
from phronesis.errors import ConfigError
from phronesis.gateway import GatewayConfig
from phronesis.log import Heartbeat
from phronesis.reason.players.arpo import ARPOPlayer
from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train import job
from phronesis.train.config import EnvChoice, EvalConfig, ModelConfig


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def patient(play, port):
    """An agent that begins once the run listens, and ends with it."""

    async def run(stop):
        while not stop.is_set():
            try:
                return await play(f"http://127.0.0.1:{port}", stop)
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
            except (httpx.TransportError, openai.APIConnectionError):
                return None  # the run is over

    return run


def mirroring(spec, port, max_turns):
    return patient(lambda address, stop: mirror(spec, address, stop, max_turns), port)


def outcome(folder, steps):
    """What two runs must agree on: weights, and of every episode what was asked, sampled and earned."""
    with Run.open(folder) as run:
        episodes = {}
        for row in run.rows():
            episode = run.read(row)
            turns = [(t.context, t.completion, t.logprobs, t.version, t.seed, t.prompt_crc, t.follows) for t in episode.turns]
            episodes[row.kind, row.id] = (episode.task.id, episode.seed, turns, episode.reward.value, episode.stop)
        return tiny_jobs.weights(folder, steps), episodes


def memory(port=None, **changes):
    gateway = None if port is None else GatewayConfig(port=port, idle_seconds=30.0)
    return tiny_jobs.config(env=EnvChoice(name="lessons:memory"), gateway=gateway, **changes)


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """The run that plays its episodes itself."""
    folder = tmp_path_factory.mktemp("inside") / "run"
    job.run(memory(), folder)
    weights, episodes = outcome(folder, 4)
    return weights, {k: v for k, v in episodes.items() if k[0] != "heldout_swapped"}


def test_outside_agents_and_inside_play_give_the_same_run(inside, tmp_path):
    port = free_port()
    with agents(3, mirroring(lessons.memory(), port, 2)):
        summary = job.run(memory(port), tmp_path / "run")
    assert outcome(tmp_path / "run", 4) == inside
    assert len(inside[1]) > 40 and summary.steps == 4
    with Run.open(tmp_path / "run") as run:
        counted = [step.values["gateway/episodes"] for step in run.steps() if "gateway/episodes" in step.values]
    assert sum(counted[:2]) >= 16


def test_a_run_interrupted_while_agents_play_resumes_to_the_same_end(inside, tmp_path):
    port = free_port()
    with agents(2, mirroring(lessons.memory(), port, 2)), pytest.raises(tiny_jobs.Stopped):
        job.run(memory(port), tmp_path / "run", listener=tiny_jobs.stop_at("train", 3))
    with agents(2, mirroring(lessons.memory(), port, 2)):
        job.run(memory(port), tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run", 4) == inside


@pytest.fixture(scope="module")
def primed(tmp_path_factory):
    """A model folder that can answer the memory probe."""
    folder = tmp_path_factory.mktemp("primed") / "run"
    job.run(memory(steps=0, evaluation=EvalConfig(tasks=0)), folder)
    return folder / "checkpoints" / "step-00000000"


def outside(port, primed, **changes):
    base = memory(port, evaluation=EvalConfig(tasks=0), prime=None, **changes)
    return replace(base, env=EnvChoice(name="outside"), model=ModelConfig(path=str(primed)), steps=2)


async def answer(http, client, episode, score=None, **end):
    """One message in an episode, and its end."""
    asked = [{"role": "user", "content": f"hello {episode['task']['id']}"}]
    mine = client.with_options(base_url=episode["base_url"])
    reply = await mine.chat.completions.create(model="m", messages=asked)
    body = {"reward": float(len(reply.choices[0].message.content or ""))} if score is None and not end else end
    (await http.post(f"/episodes/{episode['id']}/finish", json=body)).raise_for_status()


async def own_tasks(address, stop, names=("red", "green", "blue")):
    """An agent with tasks of its own, one after the other, over and over; and a held-out one beside."""
    async with clients(address) as (http, client):
        beside = (await http.post("/episodes", json={"task": "h", "split": "heldout"})).json()
        await answer(http, client, beside)
        while not stop.is_set():
            for name in names:
                given = await http.post("/episodes", json={"task": {"id": name, "payload": {"colour": name}}, "wait": 0.2})
                if given.status_code == 410:
                    return
                if given.status_code == 201:
                    await answer(http, client, given.json())
                else:
                    assert (given.status_code, given.json()["error"]["code"]) == (429, "no_work")


def test_agents_bring_their_own_tasks_and_make_groups_of_them(primed, tmp_path):
    port = free_port()
    with agents(3, patient(own_tasks, port)):
        job.run(outside(port, primed), tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        groups = {}
        for episode in run.episodes(Where(kind="train")):
            groups.setdefault(episode.group, []).append(episode)
            assert {t.version for t in episode.turns} == {(episode.step, episode.step)}
        beside = list(run.episodes(Where(kind="gateway")))
    assert sorted(groups) == ["train-0-0", "train-0-1", "train-1-0", "train-1-1"]
    for members in groups.values():
        assert len(members) == 4 and len({e.task.id for e in members}) == 1
        assert members[0].task.payload == {"colour": members[0].task.id}
    assert {e.task.split for e in beside if e.reward} == {"heldout"}


def test_silent_dead_and_faulty_agents_are_left_out_and_counted(primed, tmp_path, caplog):
    """Of each group of four, one is never rewarded, one is left alone, one reports a broken world; learning goes on."""

    async def unreliable(address, stop):
        async with clients(address) as (http, client):
            for n in range(10**6):
                given = await http.post("/episodes", json={"wait": 5})
                if given.status_code == 410:
                    return
                if given.status_code == 429:
                    continue
                episode = given.json()
                match n % 4:
                    case 0:
                        await answer(http, client, episode, score=0, stop="completed")
                    case 1:
                        pass
                    case 2:
                        await answer(http, client, episode, score=0, stop="env_fault", message="the tool is down")
                    case _:
                        await answer(http, client, episode)

    port = free_port()
    config = outside(port, primed, group_size=8)
    config = replace(config, gateway=GatewayConfig(port=port, idle_seconds=0.3))
    with agents(1, patient(unreliable, port)), caplog.at_level(logging.WARNING):
        job.run(config, tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        rows = run.rows(Where(kind="train"))
        steps = run.steps()
    assert len(rows) == 32
    assert sorted((r.stop, r.reward is None) for r in rows if r.group == "train-0-0") == [
        *[("completed", False)] * 2, *[("completed", True)] * 2, *[("env_fault", True)] * 2, *[("timeout", True)] * 2
    ]  # fmt: skip
    measured = [s.values for s in steps if "gateway/episodes" in s.values]
    assert [(v["gateway/episodes"], v["gateway/unrewarded"], v["gateway/idle"]) for v in measured] == [(16, 8, 4)] * 2
    assert [v["signal/dropped"] for v in measured] == [12.0, 12.0]
    assert "was left alone" in caplog.text


def test_a_run_nobody_comes_to_says_what_it_waits_for(primed, tmp_path, monkeypatch):
    monkeypatch.setitem(Heartbeat.__init__.__kwdefaults__, "every", 0.1)
    port, seen = free_port(), []

    async def late(address, stop):
        """Looks at the run for a while before it begins to work; afterwards a reward comes too late."""
        async with clients(address) as (http, client):
            await http.get("/health")
            await asyncio.sleep(0.5)
            first = (await http.post("/episodes", json={})).json()
            await answer(http, client, first)
            while (given := await http.post("/episodes", json={"wait": 5})).status_code != 410:
                if given.status_code == 201:
                    await answer(http, client, given.json())
                    if given.json()["step"] == 1 and not seen:
                        seen.append(await http.post(f"/episodes/{first['id']}/reward", json={"score": 1.0}))

    with agents(1, patient(late, port)):
        job.run(outside(port, primed), tmp_path / "run")
    waited = tiny_jobs.events(tmp_path / "run", "heartbeat")
    assert any("8 in an agent to fetch it" in why for why in waited)
    assert seen[0].status_code == 409 and "is over (completed) and recorded with reward" in seen[0].text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gateway": None}, "start the run with --from-gateway"),
        ({"model": ModelConfig()}, "set model.path"),
        ({"player": ARPOPlayer(initial=2)}, 'set player.type = "alone"'),
        ({"gateway": GatewayConfig(host="0.0.0.0")}, "PHRONESIS_GATEWAY_TOKEN"),
        ({"env": EnvChoice(name="outside", args={"tasks": "absent.jsonl"})}, "cannot read the tasks in 'absent.jsonl'"),
    ],
)
def test_runs_that_cannot_be_are_refused(primed, tmp_path, monkeypatch, changes, words):
    monkeypatch.delenv("PHRONESIS_GATEWAY_TOKEN", raising=False)
    with pytest.raises(Exception, match=words):
        job.run(replace(outside(0, primed, group_size=4), **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tasks_come_from_a_file(tmp_path):
    lines = [{"id": "a", "payload": {"x": 1}}, {"id": "b", "split": "heldout", "difficulty": 2.0}]
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n")
    spec = registry.get("outside", {"tasks": str(path)})
    assert spec.sizes == {"train": 1, "heldout": 1} and not spec.playable
    assert spec.task("train", 0).payload == {"x": 1} and spec.task("heldout", 0).difficulty == 2.0
    for wrong, words in (('{"id": "a"}\n{"id": "a"}', "already"), ('{"name": 1}', "line 1"), ("", "no task of split 'train'")):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=words):
            registry.get("outside", {"tasks": str(path)})
