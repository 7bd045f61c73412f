"""A whole run, phase by phase: make, prime, evaluate, train, evaluate, say what changed. Every phase can be resumed."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace as replace_stage
from pathlib import Path

import torch
from msgspec.structs import replace

from phronesis import credit
from phronesis.alive.watchdog import Watchdog
from phronesis.data.mixture import Mixture
from phronesis.data.sources import SpecTasks
from phronesis.env import EnvSpec
from phronesis.envs.services.directory import Directory
from phronesis.errors import ConfigError, TrainingError
from phronesis.reason.players import build as players
from phronesis.rollout.pauses import short_pauses, tidy
from phronesis.rollout.play import Stage
from phronesis.rollout.prefix import check_world
from phronesis.rollout.waiting import Waiting
from phronesis.store.run import Run, RunWriter
from phronesis.train import worlds
from phronesis.train.async_loop import train_async
from phronesis.train.config import EnvChoice, RunConfig
from phronesis.train.crediting import check_critic
from phronesis.train.crew import Crew, Hire, Terms, hired
from phronesis.train.heldout import HeldOut
from phronesis.train.last_words import last_words
from phronesis.train.learner import Learner
from phronesis.train.lessons.lesson import Ground
from phronesis.train.lint import lint, refuse
from phronesis.train.loop import Loop, train
from phronesis.train.outside import agents_outside, check_outside
from phronesis.train.phases import Phases, Timing
from phronesis.train.progress import Listener, Progress, heard, silent
from phronesis.train.seat import Seat
from phronesis.train.services import check_services, played_by, registrar
from phronesis.train.state import RunState
from phronesis.train.steering import Steering
from phronesis.train.summary import Summary, summarise_run
from phronesis.train.teacher import check_teacher, taught

log = logging.getLogger(__name__)


def run(
    config: RunConfig,
    out: Path,
    *,
    spec: EnvSpec | None = None,
    resume: bool = False,
    listener: Listener = silent,
    hire: Hire | None = None,
) -> Summary:
    """Does a whole run and writes its folder.

    Args:
        config: what to do.
        out: the run folder; must be new or empty, unless `resume`.
        spec: an environment at hand, instead of the one `config.env` names. The command line can evaluate and replay such a
            run only when `config.env` names it too, e.g. by import path; where `config.env` says nothing, the run records
            the spec's own name.
        resume: continue an interrupted run of the same config; finished phases are not done again.
        listener: told about every step.
        hire: starts the workers that `config.cluster` asks for, e.g. ``phronesis.cluster.hiring("local")``.

    Raises:
        UserError: the config, the model or the folder cannot be used.
        TrainingError: the learner met numbers it cannot trust.
    """
    config.validate()
    if config.cluster is not None and hire is None:
        raise ConfigError("cluster asks for workers, whom nobody hires; give hire=phronesis.cluster.hiring() or leave it out")
    terms = Terms(hire, at_hand=spec)
    if spec is None:
        spec = worlds.world(config)
    elif config.sources:
        raise ConfigError("a run with sources names its environments; it cannot take another one by hand")
    elif config.env == EnvChoice():
        config = replace(config, env=EnvChoice(name=spec.name))
    spec = worlds.shown(config, spec)
    check(config, spec)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    marks = {s.name: s.success for s in spec.parts.values() or (spec,)}
    with Run.create(out, config, resume=resume, success=marks) as writer:
        try:
            if resume:
                writer.event("resume", "continuing an interrupted run")
            else:
                for finding in lint(config):
                    log.warning("%s", finding.line)
                    writer.event("lint", finding.line, rule=finding.rule, severity=finding.severity)
            with Watchdog(writer.path, "train", signs=lambda: Waiting.calls) as watchdog:
                job = _Job(config, spec, writer, heard(watchdog.told, listener), terms)
                watchdog.sources = job.sources
                return asyncio.run(watchdog.guard(job.run()))
        except Exception as error:
            said = last_words(writer, error)
            if said is error:
                raise
            raise said from error


def check(config: RunConfig, spec: EnvSpec) -> None:
    """Refuses, before anything is written, what would only fail after priming or playing.

    Raises:
        ConfigError: settings `phronesis.train.lint` refuses, priming without demonstrations, an order of tasks the environment
            does not allow, a credit rule or player that cannot be built, a rule whose critic is missing or idle, or a
            player that plays on from inside episodes of an environment that is no function of its task and seed.
        CheckpointError: a teacher that cannot be read.
        UnknownName: a split the environment lacks.
    """
    refuse(lint(config))
    check_outside(config, spec)
    check_services(config, spec)
    if config.prime is not None and spec.demonstrate is None:
        raise ConfigError(f'environment {spec.name!r} has no demonstrations to prime on; set prime = "none"')
    worlds.tasks(config, spec)
    if config.evaluation.tasks:
        SpecTasks(spec, "heldout", config.seed)
    if players.build(config.player) is not None:
        for part in spec.parts.values() or (spec,):
            asyncio.run(check_world(part, SpecTasks(part, "train", config.seed).draw(1)[0], config.seed))
    rule = worlds.rule(config)
    check_critic(rule, config.critic)
    check_teacher(rule)
    if config.lesson is not None and config.steps:
        config.lesson.check(spec)


class _Job:
    """One run while it happens."""

    def __init__(self, config: RunConfig, spec: EnvSpec, writer: RunWriter, listener: Listener, terms: Terms) -> None:
        self.terms = terms
        self.crew: Crew | None = None
        self.config, self.spec, self.writer, self.listener = config, spec, writer, listener
        self.phases = Phases(writer.path / "phases.json")
        self.timing = Timing(self.phases, writer)
        self.heldout = HeldOut(config, spec, writer, self.phases, listener)
        self.state = RunState(config, spec, writer, listener, self.timing)
        self.heldout.retries = self.state.retries

    def sources(self) -> dict[str, dict[str, int]]:
        """By source of tasks, how many groups play and how many wait to be learned from; for whoever asks what a run does."""
        buffer, found = self.state.buffer, dict[str, dict[str, int]]()
        for entry in list(buffer.held.values()) if buffer is not None else []:
            counts = found.setdefault(entry.task.env, {"groups that play": 0, "groups that wait to be learned from": 0})
            counts["groups that play" if entry.group is None else "groups that wait to be learned from"] += 1
        return found

    async def run(self) -> Summary:
        """All phases in order."""
        try:
            with registrar(self.config, self.spec, self.writer) as services:
                return await self._phases(services)
        finally:
            if self.state.fleet is not None:
                await self.state.fleet.close()
                if self.state.fleet.account:
                    self.writer.event("servers", self.state.fleet.account, retries=self.state.fleet.retries.total())

    async def _phases(self, services: Directory | None) -> Summary:
        policy, start = await self.state.open()
        self._note_arithmetic(policy)
        with played_by(services), short_pauses():
            outside = await self._play_and_learn(policy, start)
            if self.config.evaluation.swapped and self.config.evaluation.tasks and not outside:
                await self.heldout.swap(policy)
        parameters = sum(p.numel() for p in policy.decoder.parameters())
        summary = summarise_run(self.config, self.state.hash, parameters, self.spec, self.writer, self.phases)
        self.writer.write_summary(summary)
        return summary

    async def _play_and_learn(self, policy: Seat, start: int) -> bool:
        """Evaluates, trains and evaluates again; whether agents outside played."""
        async with (
            agents_outside(self.config, self.spec, policy, self.writer) as outside,
            hired(self.config, self.terms, policy, self.state.tokenizer, self.writer) as crew,
        ):
            self.crew, elsewhere = crew, crew or outside
            self.state.player = elsewhere or self.state.player
            self.heldout.player = elsewhere
            await self.heldout.evaluate("before", self.state.untrained() if start and self.heldout.lacks("before") else policy)
            await self._train(policy, start)
            self._check_base(policy)
            await self.heldout.evaluate("after", policy)
        return outside is not None

    async def _train(self, policy: Seat, start: int) -> None:
        config, began = self.config, time.monotonic()

        async def after_step(done: int, metrics: dict[str, float]) -> None:
            nonlocal began
            self.listener(Progress(phase="train", done=done, total=config.steps, values=metrics))
            if steering is not None:
                steering.look()
            tidy()
            every = config.evaluation.every
            if every and done % every == 0 and done < config.steps:
                self.timing.add("train", began)
                await self.heldout.evaluate(f"step{done}", policy, modes=("sampled",))
                began = time.monotonic()
            if done % config.checkpoint_every == 0 or done == config.steps:
                self.state.save(policy, done)
                self.timing.add("train", began)  # here, so that a resumed run adds up
                began = time.monotonic()

        def push() -> None:
            policy.push()
            if self.crew is not None:
                self.crew.push()

        source = self.state.source
        steering = Steering(source, self.writer) if isinstance(source, Mixture) else None
        if steering is not None:
            steering.look()
        stage = replace_stage(
            policy.stage(worlds.training(config, self.spec), config, config.sampling), retries=self.state.retries
        )
        loop = Loop(
            config=config,
            stage=stage,
            source=self.state.source,
            credit=taught(self.state.credit, policy.decoder),
            player=self.state.player,
            learner=policy.learner,
            run=self.writer,
            push=push,
            after_step=after_step,
            critic=policy.critic,
            lesson=None if config.lesson is None else config.lesson.begin(self._ground(policy, stage)),
            aside=config.asynchrony is not None,
        )
        try:
            if config.asynchrony is None:
                await train(loop, start)
            else:
                assert self.state.buffer is not None
                await train_async(loop, self.state.buffer)
        finally:
            policy.learner.close()
        self.timing.took("train", began)

    def _ground(self, policy: Seat, stage: Stage) -> Ground:
        """What a lesson works with."""
        config = self.config
        assert isinstance(policy.learner, Learner)  # lessons with a group of processes are refused
        return Ground(
            stage=stage,
            learner=policy.learner,
            batch=config.batch,
            seed=config.seed,
            concurrency=config.concurrency,
            store=self.writer.append,
            success=config.credit.success if isinstance(config.credit, credit.VerifiedCredit) else 1.0,
        )

    def _check_base(self, policy: Seat) -> None:
        """Makes sure that training with adapters left the model under them alone, to the bit.

        Raises:
            TrainingError: it did not.
        """
        noted = [e.fields.get("base") for e in self.writer.events() if e.kind == "lora"]
        adapters = policy.learner.adapters
        if adapters is not None and noted and adapters.digest() != noted[-1]:
            raise TrainingError(
                "training changed weights under the adapters, which must stay as they are; nothing can be exported"
            )

    def _note_arithmetic(self, policy: Seat) -> None:
        """Writes down how the engine computes, since the last bits of every number belong to it."""
        now = policy.engine.arithmetic
        before = [e.fields.get("arithmetic") for e in self.writer.events() if e.kind == "engine"]
        if before and before[-1] != now:
            log.warning(
                "the run sampled with %s so far and goes on with %s: it will not equal the uninterrupted run bit for bit; "
                "`phronesis doctor` says why this machine computes as it does, engine.native chooses",
                before[-1],
                now,
            )
        if not before or before[-1] != now:
            self.writer.event("engine", f"samples with {now}", arithmetic=now)
        if not before and policy.decoder.note:
            why = f"generic path, without compiled step, batched decoding and shared prefixes: {policy.decoder.note}"
            log.warning("%s", why)
            self.writer.event("generic", why)
