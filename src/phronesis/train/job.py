"""A whole run, phase by phase: make, prime, evaluate, train, evaluate, say what changed. Every phase can be resumed."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace as replace_data
from pathlib import Path

import torch
from msgspec.structs import replace
from transformers import PreTrainedTokenizerBase

from phronesis import credit
from phronesis.agent import Session
from phronesis.config import config_hash
from phronesis.data.sources import SpecTasks
from phronesis.data.traces import encode_all
from phronesis.engine.vllm.fleet import Fleet
from phronesis.env import EnvSpec
from phronesis.envs import registry
from phronesis.errors import ConfigError, RunFolderError, TrainingError
from phronesis.models import lora, peft_files
from phronesis.models.causal import LanguageModel
from phronesis.models.decoder import Decoder
from phronesis.models.files import carry
from phronesis.models.lora import Adapters
from phronesis.models.opening import open_model
from phronesis.models.tiny import tiny
from phronesis.models.tokenizer import load_tokenizer, save_generation, save_tokenizer
from phronesis.reason.players import build as players
from phronesis.records import Task
from phronesis.rollout.play import Stage, Ticket, play
from phronesis.rollout.prefix import check_world
from phronesis.seeding import stream
from phronesis.store.disk import make_folder, sync
from phronesis.store.run import Run, RunWriter
from phronesis.train import checkpoint, under_way
from phronesis.train.async_loop import train_async
from phronesis.train.buffer import Buffer
from phronesis.train.config import EnvChoice, RunConfig
from phronesis.train.crediting import check_critic
from phronesis.train.heldout import HeldOut
from phronesis.train.lessons.lesson import Ground
from phronesis.train.lint import lint, refuse
from phronesis.train.loop import Loop, train
from phronesis.train.outside import agents_outside, check_outside
from phronesis.train.phases import Phases, Timing
from phronesis.train.priming import Demonstrations, demonstrations, make_tokenizer
from phronesis.train.progress import Listener, Progress, silent
from phronesis.train.seat import Seat, seat
from phronesis.train.summary import Summary, summarise_run
from phronesis.train.supervised import SupervisedStep, fit
from phronesis.train.teacher import check_teacher, taught

log = logging.getLogger(__name__)

TOKENIZER = "tokenizer"
"""Folder, beside the checkpoints, of the tokenizer every checkpoint gets a copy of."""


def run(
    config: RunConfig, out: Path, *, spec: EnvSpec | None = None, resume: bool = False, listener: Listener = silent
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

    Raises:
        UserError: the config, the model or the folder cannot be used.
        TrainingError: the learner met numbers it cannot trust.
    """
    config.validate()
    if spec is None:
        spec = registry.get(config.env.name, config.env.args)
    elif config.env == EnvChoice():
        config = replace(config, env=EnvChoice(name=spec.name))
    check(config, spec)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with Run.create(out, config, resume=resume, success={spec.name: spec.success}) as writer:
        try:
            if resume:
                writer.event("resume", "continuing an interrupted run")
            else:
                for finding in lint(config):
                    log.warning("%s", finding.line)
                    writer.event("lint", finding.line, rule=finding.rule, severity=finding.severity)
            return asyncio.run(_Job(config, spec, writer, listener).run())
        except Exception as error:
            writer.event("failure", f"{type(error).__name__}: {error}")
            raise


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
    if config.prime is not None and spec.demonstrate is None:
        raise ConfigError(f'environment {spec.name!r} has no demonstrations to prime on; set prime = "none"')
    config.tasks.source(spec, "train", config.seed)
    if config.evaluation.tasks:
        SpecTasks(spec, "heldout", config.seed)
    if players.build(config.player) is not None:
        asyncio.run(check_world(spec, SpecTasks(spec, "train", config.seed).draw(1)[0], config.seed))
    rule = credit.build(config.credit)
    check_critic(rule, config.critic)
    check_teacher(rule)
    if config.lesson is not None and config.steps:
        config.lesson.check(spec)


class _Look:
    """An agent that only looks at the room the first prompt leaves."""

    room: int | None = None
    """Ids left in the context; None when there is no limit, or the episode never began."""

    async def run(self, session: Session) -> None:
        """Looks."""
        self.room = session.budget.context


async def check_context(stage: Stage, task: Task, seed: int) -> None:
    """Refuses a context that the first prompt of a task fills. An environment that fails here is left to be found by play.

    Raises:
        ConfigError: no id would fit behind the prompt.
    """
    look, limit = _Look(), stage.limits.context
    await play(replace_data(stage, agent=look), Ticket(id="look", task=task, seed=stream(seed, "look")))
    if limit is not None and look.room is not None and look.room <= 0:
        raise ConfigError(
            f"limits.context {limit!r} is smaller than the prompt: task {task.id!r} opens with {limit - look.room} ids; raise "
            "limits.context, or use a model with more positions"
        )


class _Job:
    """One run while it happens."""

    def __init__(self, config: RunConfig, spec: EnvSpec, writer: RunWriter, listener: Listener) -> None:
        self.config, self.spec, self.writer, self.listener = config, spec, writer, listener
        self.folder = writer.layout.checkpoints
        self.phases = Phases(writer.path / "phases.json")
        self.timing = Timing(self.phases, writer)
        self.heldout = HeldOut(config, spec, writer, self.phases, listener)
        self.hash = config_hash(config)
        self.source = config.tasks.source(spec, "train", config.seed)
        self.credit = credit.build(config.credit)
        self.player = players.build(config.player)
        self.buffer = None if config.asynchrony is None else Buffer.of(config.groups, config.asynchrony)
        vllm = config.engine.vllm
        self.fleet = None if vllm is None else Fleet(vllm, writer.path / "servers")

    async def run(self) -> Summary:
        """All phases in order."""
        try:
            return await self._phases()
        finally:
            if self.fleet is not None:
                await self.fleet.close()
                if self.fleet.account:
                    self.writer.event("servers", self.fleet.account, retries=self.fleet.retries.total())

    async def _phases(self) -> Summary:
        policy, start = await self._seat()
        self._note_arithmetic(policy)
        async with agents_outside(self.config, self.spec, policy, self.writer) as outside:
            self.player = outside or self.player
            self.heldout.player = outside
            await self.heldout.evaluate("before", self._untrained() if start and self.heldout.lacks("before") else policy)
            await self._train(policy, start)
            self._check_base(policy)
            await self.heldout.evaluate("after", policy)
        if self.config.evaluation.swapped and self.config.evaluation.tasks and outside is None:
            await self.heldout.swap(policy)
        parameters = sum(p.numel() for p in policy.decoder.parameters())
        summary = summarise_run(self.config, self.hash, parameters, self.spec, self.writer, self.phases)
        self.writer.write_summary(summary)
        return summary

    async def _seat(self) -> tuple[Seat, int]:
        """The policy, new or from the newest checkpoint, and the step it stands at."""
        newest = checkpoint.latest(self.folder)
        if newest is not None:
            loaded = checkpoint.load(newest)
            checkpoint.matches(loaded.manifest, self.hash)
            step = loaded.manifest.step
            kept = loaded.learner.get("adapters")
            adapters = None if kept is None else lora.resume(_compact(loaded.decoder), kept)
            tokenizer = load_tokenizer(self.folder / TOKENIZER)
            policy = seat(self.config, tokenizer, loaded.decoder, version=step, adapters=adapters, fleet=self.fleet)
            policy.learner.restore(loaded.learner)
            if policy.critic is not None and loaded.critic is not None:
                policy.critic.restore(loaded.critic)
            self.source.restore(loaded.manifest.source)
            if isinstance(self.credit, credit.Remembers):
                self.credit.restore(loaded.manifest.credit)
            if isinstance(self.player, credit.Remembers):
                self.player.restore(loaded.manifest.player)
            if self.buffer is not None:
                under_way.restore(self.buffer, loaded.manifest, self.config, self.writer)
            log.info("continuing from step %d of %d", step, self.config.steps)
            return policy, step
        began = time.monotonic()
        tokenizer, decoder, shown = await self._make()
        given = self.config.model.path is not None
        adapters = self._adapt(decoder) if given else None
        policy = seat(self.config, tokenizer, decoder, adapters=adapters, fleet=self.fleet)
        first = SpecTasks(self.spec, "train", self.config.seed).draw(1)[0]
        await check_context(policy.stage(self.spec, self.config, self.config.sampling), first, self.config.seed)
        self._keep_tokenizer(tokenizer)
        self.timing.took("make", began)
        if shown.conversations:
            self._prime(policy, shown)
        if not given:
            adapters = self._adapt(decoder)
        policy = seat(
            self.config, tokenizer, decoder, adapters=adapters, fleet=self.fleet
        )  # version 0 starts reinforcement learning
        self._save(policy, 0)
        return policy, 0

    def _adapt(self, decoder: LanguageModel) -> Adapters | None:
        """Adapters on a model that is to stay as it is; None when all of it is trained."""
        chosen = self.config.lora
        if chosen is None:
            return None
        compact = _compact(decoder)
        start = lora.fresh(compact, chosen, self.config.seed) if chosen.path is None else peft_files.load(chosen.path)
        adapters = Adapters(compact, start)
        whole = sum(p.numel() for p in decoder.parameters())
        said = f"trains {adapters.trained} numbers beside {whole} that stay as they are"
        self.writer.event("lora", said, trained=adapters.trained, base=adapters.digest())
        return adapters

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

    def _untrained(self) -> Seat:
        """The policy of step 0, for an evaluation that a resumed run finds missing.

        Raises:
            RunFolderError: its checkpoint is gone.
        """
        first = checkpoint.load(checkpoint.steps(self.folder)[0])
        if first.manifest.step != 0:
            raise RunFolderError(
                "the evaluation before training is missing from phases.json, and so is the checkpoint of step 0; "
                "restore either of them, or start over in another folder"
            )
        alone = replace(self.config, asynchrony=None)
        return seat(alone, load_tokenizer(self.folder / TOKENIZER), first.decoder, fleet=self.fleet)

    async def _make(self) -> tuple[PreTrainedTokenizerBase, LanguageModel, Demonstrations]:
        model = self.config.model
        if model.path is not None:
            tokenizer, decoder = load_tokenizer(model.path), open_model(model.path, model.generic)
            shown = await demonstrations(self.spec, self.config) if self.config.prime else Demonstrations([], [])
            return tokenizer, decoder, shown
        shown = await demonstrations(self.spec, self.config)
        tokenizer = make_tokenizer(shown, model.vocab_size)
        return tokenizer, tiny(model.tiny, len(tokenizer), self.config.seed), shown

    def _prime(self, policy: Seat, shown: Demonstrations) -> None:
        prime, began = self.config.prime, time.monotonic()
        if prime is None:
            return

        def told(step: SupervisedStep) -> None:
            values = {
                "prime/loss": step.loss,
                "prime/accuracy": step.accuracy,
                "prime/grad_norm": step.grad_norm,
                "prime/lr": step.lr,
                "prime/tokens": float(step.tokens),
            }
            self.writer.metrics(step.step - step.steps - 1, values)
            self.listener(Progress(phase="prime", done=step.step, total=step.steps, values=values))

        seeded = replace(prime.supervised, seed=stream(self.config.seed, "prime", prime.supervised.seed))
        traces = encode_all(shown.conversations, policy.chat)
        fit(policy.decoder, traces, seeded, told, adapters=policy.learner.adapters)
        self.timing.took("prime", began)

    async def _train(self, policy: Seat, start: int) -> None:
        config, began = self.config, time.monotonic()

        async def after_step(done: int, metrics: dict[str, float]) -> None:
            nonlocal began
            self.listener(Progress(phase="train", done=done, total=config.steps, values=metrics))
            every = config.evaluation.every
            if every and done % every == 0 and done < config.steps:
                self.timing.add("train", began)
                await self.heldout.evaluate(f"step{done}", policy, modes=("sampled",))
                began = time.monotonic()
            if done % config.checkpoint_every == 0 or done == config.steps:
                self._save(policy, done)
                self.timing.add("train", began)  # here, so that a resumed run adds up
                began = time.monotonic()

        stage = policy.stage(self.spec, config, config.sampling)
        ground = Ground(
            stage=stage,
            learner=policy.learner,
            batch=config.batch,
            seed=config.seed,
            concurrency=config.concurrency,
            store=self.writer.append,
            success=config.credit.success if isinstance(config.credit, credit.VerifiedCredit) else 1.0,
        )
        loop = Loop(
            config=config,
            stage=stage,
            source=self.source,
            credit=taught(self.credit, policy.decoder),
            player=self.player,
            learner=policy.learner,
            run=self.writer,
            push=policy.push,
            after_step=after_step,
            critic=policy.critic,
            lesson=None if config.lesson is None else config.lesson.begin(ground),
            aside=config.asynchrony is not None,
        )
        if config.asynchrony is None:
            await train(loop, start)
        else:
            assert self.buffer is not None
            await train_async(loop, self.buffer)
        self.timing.took("train", began)

    def _keep_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Puts the tokenizer on the disk, where every checkpoint finds it; that of a given model byte for byte."""
        folder, given = self.folder / TOKENIZER, self.config.model.path
        make_folder(folder)
        if given is None:
            save_tokenizer(tokenizer, folder)
            save_generation(tokenizer, folder)
        else:
            carry(Path(given), folder)
        for path in (*folder.iterdir(), folder):
            sync(path)

    def _save(self, policy: Seat, step: int) -> None:
        """Saves a checkpoint, after what was played and measured before it: no power cut leaves only the checkpoint."""
        self.writer.sync()
        tokenizer_files = [p for p in (self.folder / TOKENIZER).iterdir() if p.is_file()]
        known = dict(self.credit.state()) if isinstance(self.credit, credit.Remembers) else {}
        routes = dict(self.player.state()) if isinstance(self.player, credit.Remembers) else {}
        manifest = checkpoint.Manifest(
            step=step, source=self.source.state(), credit=known, player=routes, config=self.hash,
            started=0 if self.buffer is None else self.buffer.started,
            under_way=() if self.buffer is None else under_way.kept(self.buffer),
        )  # fmt: skip
        checkpoint.save(
            self.folder,
            policy.decoder,
            policy.learner,
            manifest,
            beside=tokenizer_files,
            keep=self.config.keep_checkpoints,
            spare=(0, self.config.steps),
            critic=policy.critic,
        )


def _compact(model: LanguageModel) -> Decoder:
    """The model, for what only the compact decoder can do.

    Raises:
        ConfigError: it is another one.
    """
    if not isinstance(model, Decoder):
        raise ConfigError(f"lora adapts matrices of the compact decoder, which the model is not ({model.note}); remove lora")
    return model
