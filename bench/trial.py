"""One run of the stability study: a method learns from a sampler that is late and imprecise (see `bench.stability`)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from statistics import fmean

import msgspec
import torch
from msgspec import Struct
from transformers import PreTrainedTokenizerBase

from bench.lagged import LaggedSampler, Mismatch, recorded
from phronesis import credit
from phronesis.chat.detect import format_for
from phronesis.credit.rule import CreditRule
from phronesis.data.sources import SpecTasks
from phronesis.data.traces import encode_all
from phronesis.env import EnvSpec
from phronesis.envs.demonstrations import with_demonstrations
from phronesis.envs.probes import copy
from phronesis.errors import TrainingError
from phronesis.losses import (
    DecoupledPPOLoss,
    DISLoss,
    IcePop,
    LossConfig,
    M2POLoss,
    PPOClipLoss,
    ReinforceLoss,
    TokenTIS,
    measure_mismatch,
)
from phronesis.models.decoder import Decoder
from phronesis.models.tiny import TinyModel, tiny
from phronesis.reason.react import ReAct
from phronesis.records import Batch
from phronesis.rollout.limits import Limits
from phronesis.rollout.play import Stage, play_groups
from phronesis.seeding import stream
from phronesis.train.batching import build_batch
from phronesis.train.config import EvalConfig, ModelConfig, PrimeConfig, RunConfig
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig, MuonConfig
from phronesis.train.packed import pack
from phronesis.train.priming import demonstrations, make_tokenizer
from phronesis.train.results import UpdateMetrics
from phronesis.train.scoring import score
from phronesis.train.supervised import SupervisedConfig, fit

MODEL = TinyModel(width=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_width=64, embed_std=0.4)
"""Who learns."""


@dataclass(frozen=True)
class Method:
    """One way to learn from what another policy sampled."""

    loss: LossConfig
    """The loss."""
    old: str = "learner"
    """What ratios refer to: the policy before the update, or what the sampler recorded."""


METHODS = {
    "plain": Method(LossConfig(objective=ReinforceLoss())),
    "PPO-clip": Method(LossConfig(objective=PPOClipLoss()), old="sampler"),
    "TIS": Method(LossConfig(objective=ReinforceLoss(), corrections=(TokenTIS(of="theta"),))),
    "IcePop": Method(LossConfig(objective=PPOClipLoss(), corrections=(IcePop(),))),
    "DIS": Method(LossConfig(objective=DISLoss())),
    "M2PO": Method(LossConfig(objective=M2POLoss()), old="sampler"),
    "decoupled": Method(LossConfig(objective=DecoupledPPOLoss())),
}
"""Name -> method, every one with its source's constants. PPO-clip and M2PO look at theta over the sampler: against the policy
before the update their only step would see a ratio of 1 and they would be the plain method."""


class Settings(Struct, frozen=True, kw_only=True):
    """What all runs of a study share."""

    letters: int = 2
    """Answers of the world `probe-copy`."""
    steps: int = 120
    """Updates of a run."""
    groups: int = 4
    """Tasks a step."""
    group_size: int = 8
    """Episodes a task."""
    lr: float = 3e-3
    """Learning rate of AdamW."""
    demonstrations: int = 400
    """Random answers the policy is primed on."""


class Cell(Struct, frozen=True, kw_only=True):
    """One run of the grid."""

    method: str
    """Key of `METHODS`."""
    lag: int
    """K."""
    mismatch: Mismatch
    """Arithmetic of the sampler."""
    seed: int
    """Of the start, and with `draw` of tasks and sampling."""
    draw: int = 0
    """Other tasks and samples from the same start; 0 is the grid's own."""

    @property
    def luck(self) -> int:
        """Seed of tasks and sampling."""
        return stream(self.seed, "draw", self.draw) if self.draw else self.seed


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of a run; a line of the file."""

    cell: Cell
    """Which."""
    settings: Settings
    """Under what."""
    rewards: list[float]
    """Mean reward of each step."""
    mismatch_kl: float
    """Nats, mean over steps of the k3 divergence of the sampler from float32 at the weights it holds."""
    mismatch_max: float
    """Nats, the largest difference of one token's log-probability there."""
    drift_kl: float
    """Nats, mean over steps of the k3 divergence of the learner before the update from the sampler: lag and mismatch."""
    ratio_max: float
    """Largest learner / sampler probability ratio of a trained token, before an update."""
    left_out: float
    """Mean share of tokens that the method gave no gradient."""
    error: str | None = None
    """Why it ended early."""
    cpu_seconds: float
    """Of the process."""


class Start:
    """A policy that answers at random: primed, not yet rewarded. One per seed, for all runs."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.config = base(settings, seed)
        self.spec = world(settings)
        self.tokenizer, self.decoder = asyncio.run(self._make())

    async def _make(self) -> tuple[PreTrainedTokenizerBase, Decoder]:
        prime = self.config.prime
        assert prime is not None
        shown = await demonstrations(self.spec, self.config)
        tokenizer = make_tokenizer(shown, self.config.model.vocab_size)
        decoder = tiny(self.config.model.tiny, len(tokenizer), self.config.seed)
        seeded = msgspec.structs.replace(prime.supervised, seed=stream(self.config.seed, "prime", prime.supervised.seed))
        fit(decoder, encode_all(shown.conversations, format_for(tokenizer)), seeded)
        return tokenizer, decoder

    def policy(self) -> Decoder:
        """Fresh weights of the start."""
        fresh = Decoder(self.decoder.config)
        fresh.load_state_dict(self.decoder.state_dict())
        return fresh


def world(settings: Settings) -> EnvSpec:
    """Say the letter the prompt names; shown in random hands."""
    return with_demonstrations(copy(settings.letters))


def base(settings: Settings, seed: int) -> RunConfig:
    """The run of the study as a config of the library; its loss is left to the method."""
    supervised = SupervisedConfig(
        epochs=2,
        batch_tokens=200,
        optimizer=MuonConfig(lr=0.03, rest=AdamWConfig(lr=5e-3)),
        decay="linear",
        final=0.05,
        warmup=2,
    )
    return RunConfig(
        name="stability",
        seed=seed,
        model=ModelConfig(tiny=MODEL, vocab_size=300),
        limits=Limits(max_turns=1, max_turn_tokens=4, context=MODEL.max_positions),
        prime=PrimeConfig(demonstrations=settings.demonstrations, supervised=supervised),
        steps=settings.steps,
        groups=settings.groups,
        group_size=settings.group_size,
        evaluation=EvalConfig(tasks=0),
        checkpoint_every=10_000,
        threads=1,
    )


def learner_config(method: Method, settings: Settings, seed: int) -> LearnerConfig:
    """How the method learns: one optimiser step a batch, and no bound on the mismatch, which is what is studied."""
    return LearnerConfig(
        loss=method.loss,
        optimizer=AdamWConfig(lr=settings.lr),
        old="sampler" if method.old == "sampler" else "learner",
        mismatch_warn=1e9,
        mismatch_error=1e9,
        seed=stream(seed, "learner", 0),
    )


class Trial:
    """One run while it happens."""

    def __init__(self, start: Start, cell: Cell, settings: Settings) -> None:
        self.start, self.cell, self.settings = start, cell, settings
        self.decoder = start.policy()
        method = METHODS[cell.method]
        self.learner = Learner(self.decoder, learner_config(method, settings, cell.seed))
        self.sampler = LaggedSampler(self.decoder, lag=cell.lag, mismatch=cell.mismatch)
        self.stage = Stage(
            spec=start.spec,
            policy=self.sampler.engine,
            chat=format_for(start.tokenizer),
            agent=ReAct(),
            limits=start.config.limits,
            sampling=start.config.sampling,
            vocabulary=self.decoder.vocab_size,
        )
        self.source = SpecTasks(start.spec, "train", cell.luck)
        self.rule: CreditRule = credit.build(start.config.credit)
        self.rewards: list[float] = []
        self.mismatch_kl: list[float] = []
        self.drift_kl: list[float] = []
        self.left_out: list[float] = []
        self.mismatch_max = 0.0
        self.ratio_max = 1.0

    async def step(self, k: int) -> UpdateMetrics:
        """Play, credit, one update, and the sampler moves on.

        Raises:
            TrainingError: a loss or gradient is not finite.
        """
        config = self.start.config
        groups = await play_groups(
            self.stage, self.source.draw(config.groups), size=config.group_size, seed=self.cell.luck, name="train", step=k,
            concurrency=config.concurrency,
        )  # fmt: skip
        self.rewards.append(
            fmean(e.reward.value for g in groups for e in g.episodes if e.reward is not None and e.reward.value is not None)
        )
        batch = build_batch(groups, [await self.rule.assign(g) for g in groups], config.batch)
        if batch.trained_tokens:
            batch = self._looked_at(batch)
        update = self.learner.update(batch)
        if update.steps:
            shares = update.shares.items()
            self.left_out.append(sum(v for name, v in shares if name.startswith(("clip_", "zeroed_"))))
        self.sampler.push()
        return update

    def _looked_at(self, batch: Batch) -> Batch:
        """Measures how far sampler and learner are apart; without mismatch the recorded numbers become the learner's own.

        The engine computes token by token, the learner whole sequences: the same weights, other last bits. Where no mismatch
        is wanted there shall be none, so that ratios at lag 0 are 1 exactly.
        """
        clean_K = self.sampler.scored(batch)
        found = measure_mismatch(clean_K, pack(batch).logp_infer_K)
        if self.sampler.exact:
            batch = recorded(batch, clean_K)
        else:
            self.mismatch_kl.append(found.k3)
            self.mismatch_max = max(self.mismatch_max, found.max_abs)
        with torch.no_grad():
            packed = pack(batch)
            now_K = score(self.decoder, packed).logp_K
        drift = measure_mismatch(now_K, packed.logp_infer_K)
        self.drift_kl.append(drift.k3)
        self.ratio_max = max(self.ratio_max, float((now_K - packed.logp_infer_K).max().exp()))
        return batch

    async def run(self) -> Outcome:
        """All steps."""
        began, error = time.process_time(), None
        try:
            for k in range(self.settings.steps):
                await self.step(k)
        except TrainingError as problem:
            error = str(problem)
        return Outcome(
            cell=self.cell,
            settings=self.settings,
            rewards=[round(r, 4) for r in self.rewards],
            mismatch_kl=_mean(self.mismatch_kl),
            mismatch_max=self.mismatch_max,
            drift_kl=_mean(self.drift_kl),
            ratio_max=self.ratio_max,
            left_out=_mean(self.left_out),
            error=error,
            cpu_seconds=round(time.process_time() - began, 2),
        )


def _mean(values: list[float]) -> float:
    return fmean(values) if values else 0.0
