"""What a run stands at: the policy, the order of tasks, what credit and player remember, groups under way; opened new or from
the newest checkpoint, and saved as one."""

from __future__ import annotations

import logging
import time
from dataclasses import replace as replace_data
from pathlib import Path

from msgspec.structs import replace
from transformers import PreTrainedTokenizerBase

from phronesis import credit
from phronesis.agent import Session
from phronesis.config import config_hash
from phronesis.data.sources import SpecTasks
from phronesis.data.traces import encode_all
from phronesis.engine.vllm.fleet import Fleet
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError, RunFolderError
from phronesis.log import doing
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
from phronesis.seeding import stream
from phronesis.store.disk import make_folder, sync, writing
from phronesis.store.run import RunWriter
from phronesis.train import checkpoint, under_way, worlds
from phronesis.train.buffer import Buffer
from phronesis.train.config import RunConfig
from phronesis.train.faults import retries_of
from phronesis.train.phases import Timing
from phronesis.train.priming import Demonstrations, demonstrations, make_tokenizer
from phronesis.train.progress import Listener, Progress
from phronesis.train.seat import Seat, seat
from phronesis.train.supervised import SupervisedStep, fit

log = logging.getLogger(__name__)

TOKENIZER = "tokenizer"
"""Folder, beside the checkpoints, of the tokenizer every checkpoint gets a copy of."""


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
    look, limit = _Look(), stage.limits_of(task).context
    await play(replace_data(stage, agent=look), Ticket(id="look", task=task, seed=stream(seed, "look")))
    if limit is not None and look.room is not None and look.room <= 0:
        raise ConfigError(
            f"limits.context {limit!r} is smaller than the prompt: task {task.id!r} opens with {limit - look.room} ids; raise "
            "limits.context, or use a model with more positions"
        )


class RunState:
    """The state of one run, in memory."""

    def __init__(self, config: RunConfig, spec: EnvSpec, writer: RunWriter, listener: Listener, timing: Timing) -> None:
        self.config, self.spec, self.writer, self.listener, self.timing = config, spec, writer, listener, timing
        self.folder = writer.layout.checkpoints
        self.hash = config_hash(config)
        self.retries = retries_of(config, writer)
        self.source = worlds.tasks(config, spec, self.retries.breakers)
        self.credit = worlds.rule(config)
        self.player = players.build(config.player)
        self.buffer = None if config.asynchrony is None else Buffer.of(config.groups, config.asynchrony)
        self.tokenizer = self.folder / TOKENIZER
        vllm = config.engine.vllm if config.cluster is None else None  # workers have servers of their own
        self.fleet = None if vllm is None else Fleet(vllm, writer.path / "servers")

    async def open(self) -> tuple[Seat, int]:
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
        with doing("make"):
            tokenizer, decoder, shown = await self._make()
        given = self.config.model.path is not None
        adapters = self._adapt(decoder) if given else None
        policy = seat(self.config, tokenizer, decoder, adapters=adapters, fleet=self.fleet)
        stage = policy.stage(self.spec, self.config, self.config.sampling)
        for part in self.spec.parts.values() or (self.spec,):
            await check_context(stage, SpecTasks(part, "train", self.config.seed).draw(1)[0], self.config.seed)
        self._keep_tokenizer(tokenizer)
        self.timing.took("make", began)
        if shown.conversations:
            self._prime(policy, shown)
        if not given:
            adapters = self._adapt(decoder)
        policy = seat(
            self.config, tokenizer, decoder, adapters=adapters, fleet=self.fleet
        )  # version 0 starts reinforcement learning
        self.save(policy, 0)
        return policy, 0

    def untrained(self) -> Seat:
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

    @doing("checkpoint")
    def save(self, policy: Seat, step: int) -> None:
        """Saves a checkpoint, after what was played and measured before it: no power cut leaves only the checkpoint."""
        self.writer.sync()
        tokenizer_files = [p for p in (self.folder / TOKENIZER).iterdir() if p.is_file()]
        known = dict(self.credit.state()) if isinstance(self.credit, credit.Remembers) else {}
        routes = dict(self.player.state()) if isinstance(self.player, credit.Remembers) else {}
        manifest = checkpoint.Manifest(
            step=step, source=self.source.state(), credit=known, player=routes, config=self.hash,
            started=0 if self.buffer is None else self.buffer.started,
            under_way=() if self.buffer is None else under_way.kept(self.buffer),
            counters={} if self.buffer is None else {"left_out": self.buffer.left_out},
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

    async def _make(self) -> tuple[PreTrainedTokenizerBase, LanguageModel, Demonstrations]:
        model = self.config.model
        if model.path is not None:
            tokenizer, decoder = load_tokenizer(model.path), open_model(model.path, model.generic)
            shown = await demonstrations(self.spec, self.config) if self.config.prime else Demonstrations([], [])
            return tokenizer, decoder, shown
        shown = await demonstrations(self.spec, self.config)
        tokenizer = make_tokenizer(shown, model.vocab_size)
        return tokenizer, tiny(model.tiny, len(tokenizer), self.config.seed), shown

    @doing("prime")
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

    def _keep_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Puts the tokenizer on the disk, where every checkpoint finds it; that of a given model byte for byte."""
        folder, given = self.folder / TOKENIZER, self.config.model.path
        with writing(folder):
            make_folder(folder)
            if given is None:
                save_tokenizer(tokenizer, folder)
                save_generation(tokenizer, folder)
            else:
                carry(Path(given), folder)
            for path in (*folder.iterdir(), folder):
                sync(path)


def _compact(model: LanguageModel) -> Decoder:
    """The model, for what only the compact decoder can do.

    Raises:
        ConfigError: it is another one.
    """
    if not isinstance(model, Decoder):
        raise ConfigError(f"lora adapts matrices of the compact decoder, which the model is not ({model.note}); remove lora")
    return model
