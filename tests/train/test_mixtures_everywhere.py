"""Whoever takes an environment takes several at once as well: hints, checks before a run, evaluation, endpoints."""

from __future__ import annotations

import asyncio
from dataclasses import replace as replace_data
from pathlib import Path

import hinted_lessons
import pytest
from msgspec.structs import replace
from tiny_jobs import config

from phronesis.chat.messages import MessageFormat
from phronesis.cli.eval import render
from phronesis.cli.guest import invite
from phronesis.engine.endpoints import parse
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.env import Env, EnvSpec
from phronesis.envs import probes
from phronesis.envs.mixture import mix
from phronesis.errors import ConfigError
from phronesis.evals.run import donors, summarise
from phronesis.policy import prompt_crc
from phronesis.reason.players.tree import TreePlayer
from phronesis.reason.react import ReAct
from phronesis.records import Component, Episode, Finish, Reply, Reward, Span, Stop, Task, Turn, say
from phronesis.rollout.hints import hinted_stage
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.play import Stage
from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train import job, presets
from phronesis.train.config import EnvChoice, EvalConfig, SourceConfig
from phronesis.train.lessons.hints import hint_of


class Moody:
    """Opens otherwise every time it is made."""

    made = 0

    async def reset(self, task: Task, seed: int) -> Reply:
        type(self).made += 1
        return Reply(messages=(say("user", f"opening {self.made}"),))

    async def step(self, action):
        return Reply(done=True)

    async def close(self) -> None:
        pass


def moody() -> EnvSpec:
    return replace_data(hinted_lessons.bandit(), make=Moody)


def opened(spec: EnvSpec, task: Task) -> str:
    async def opening() -> str:
        env: Env = spec.of(task).make()
        return (await env.reset(task, 0)).messages[-1].text

    return asyncio.run(opening())


def stage(spec: EnvSpec) -> Stage:
    return Stage(spec=spec, policy=ScriptedPolicy(lambda p: (1,), vocab_size=2), chat=MessageFormat(), agent=ReAct())


def test_a_hint_reaches_the_part_that_plays():
    spec = mix({"one": hinted_lessons.bandit(), "two": hinted_lessons.bandit()})
    hint = hint_of(spec, "", "S: {answer}", "star")
    hinted = hinted_stage(stage(spec), hint).spec
    for i in range(2):
        task = spec.task("train", i)
        assert spec.hint is not None and spec.hint(task) == "b"
        assert opened(hinted, task).endswith("S: b") and not opened(spec, task).endswith("S: b")


def test_a_part_that_tells_nothing_is_named():
    spec = mix({"one": hinted_lessons.bandit(), "two": hinted_lessons.bandit(answer=False)})
    assert spec.hint is None
    with pytest.raises(ConfigError, match="environment 'two' tells nothing"):
        hint_of(spec, "", "{answer}", "star")
    with pytest.raises(ConfigError, match="has no 'letter' in its payload"):
        hint_of(mix({"one": probes.copy(), "two": hinted_lessons.bandit()}), "letter", "{answer}", "star")


def test_failed_tasks_of_every_part_are_rationalised(tmp_path: Path):
    spec = mix({"one": hinted_lessons.bandit(), "two": hinted_lessons.bandit()})
    run = presets.apply("star", config(env=EnvChoice(), steps=1, groups=6, group_size=1, evaluation=EvalConfig(tasks=0)))
    job.run(replace(run, limits=replace(run.limits, max_turns=1)), tmp_path / "run", spec=spec)
    with Run.open(tmp_path / "run") as done:
        again = list(done.episodes(Where(kind="hinted")))
    assert {e.task.env for e in again} == {"one", "two"} and all("answer is b" in e.opening[-1].text for e in again)


def test_a_part_that_cannot_be_played_on_from_inside_is_refused_wherever_it_stands():
    fine = hinted_lessons.bandit()
    run = config(env=EnvChoice(), player=TreePlayer(widths=(2, 2)), group_size=4)
    for parts in ({"moody": moody(), "fine": fine}, {"fine": fine, "moody": moody()}):
        with pytest.raises(ConfigError, match="'moody' cannot be played on from inside an episode"):
            job.check(run, mix(parts))


def test_the_context_of_every_source_is_checked(tmp_path: Path):
    """The second source's own limit is too small for its opening."""
    small = SourceConfig(env=EnvChoice(name="lessons:copy"), limits=Limits(max_turns=1, max_turn_tokens=4, context=5))
    sources = {"one": SourceConfig(env=EnvChoice(name="lessons:bandit")), "two": small}
    with pytest.raises(ConfigError, match=r"limits\.context 5 is smaller than the prompt: task 'train-a'"):
        job.run(config(env=EnvChoice(), sources=sources, evaluation=EvalConfig(tasks=0)), tmp_path / "run")


TURN = Turn(
    parent=None, context=(1,), completion=(0, 1), sampled=(True, True), logprobs=(0.0, 0.0), finish=Finish.stop,
    prompt_crc=prompt_crc([1]), reply=Reply(done=True), spans=(Span(kind="think", start=0, end=1),),
)  # fmt: skip


def finished(name: str, env: str, task: str, reward: float = 1.0) -> Episode:
    scored = Reward(components=(Component(name="r", score=reward),))
    return Episode(id=name, task=Task(id=task, env=env), seed=0, turns=(TURN,), stop=Stop.completed, reward=scored)


def test_thoughts_change_hands_within_a_source():
    found = [finished("a", "one", "s"), finished("b", "two", "t"), finished("c", "one", "u"), finished("d", "two", "t")]
    assert [(e.id, d.id) for e, d in donors(found)] == [("a", "c"), ("c", "a")]


def test_an_evaluation_says_how_each_source_did():
    spec = mix({"one": probes.copy(), "two": probes.bandit()})
    found = [finished("a", "one", "s"), finished("b", "two", "t", 0.0), finished("c", "two", "u")]
    rows = [line.split() for line in render(summarise(spec, found, 1.0), spec.name, "x").splitlines()]
    assert ["one", "100.0%", "1"] in rows and ["two", "50.0%", "2"] in rows


def test_an_endpoint_plays_what_a_run_of_several_sources_played(tmp_path: Path):
    """With the limits of each source; those on ids are the endpoint's to keep."""
    own = Limits(max_turns=3, context=64)
    sources = {
        "one": SourceConfig(env=EnvChoice(name="probe-copy")),
        "two": SourceConfig(env=EnvChoice(name="guess"), limits=own),
    }
    Run.create(tmp_path / "run", config(env=EnvChoice(), sources=sources), resume=False).close()
    named = parse("openai:m@http://127.0.0.1:1/v1")
    assert named is not None
    guest = invite(named, [], tmp_path / "run")
    assert set(guest.spec.parts) == {"one", "two"}
    played = guest.stage(Sampling())
    assert played.limits_of(guest.spec.task("train", 1)) == replace(own, context=None)
