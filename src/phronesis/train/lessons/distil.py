"""Distillation between whole distributions inside a run: the student plays, a frozen teacher says what it would have said.

Source: GKD, arXiv 2306.13649. The divergence is the objective's (`gkd`, `sdpo`); the teacher reads the very tokens the student
sampled, and, where `traces` asks for them, the environment's demonstrations.

Shapes: K trained tokens, D the teacher's width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.data.traces import Trace, encode
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.models import checkpoint
from phronesis.models.causal import LanguageModel
from phronesis.records import Batch, Credit, EpisodeGroup
from phronesis.seeding import stream
from phronesis.train.lessons.lesson import Ground, Learned
from phronesis.train.lessons.traces import attempts_batch, fitting, joined, scored, traces_batch
from phronesis.train.packed import Packed
from phronesis.train.scoring import Precision, states


class DistilLesson(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="distil"):
    """Learn from a frozen teacher's whole distributions; rewards and credit are not read.

    Needs an objective over whole distributions: ``learner.loss.objective.type = "gkd"`` or ``"sdpo"``. A teacher compares
    tokens under the same prompt as the student, at the temperature they were sampled with.
    """

    teacher: str
    """Checkpoint directory of the teacher, as `save_pretrained` writes it; it must have the student's vocabulary."""
    traces: float = 0.0
    """Demonstrations of the environment per attempt, learned from with the same objective: 0 is on-policy distillation, 1 is
    GKD's half and half (lambda .5)."""

    def __post_init__(self) -> None:
        if not self.teacher:
            raise ConfigError(
                "lesson distil needs a teacher: set lesson.teacher=FOLDER, a checkpoint with the student's vocabulary"
            )
        if not 0 <= self.traces < float("inf"):
            raise ConfigError(f"distil traces {self.traces!r} must be at least 0")

    def check(self, spec: EnvSpec) -> None:
        """Refuses what would only fail after playing.

        Raises:
            ConfigError: there are no demonstrations to distil on.
            CheckpointError: no model can be read where the teacher should be.
        """
        checkpoint.read_config(self.teacher)
        if self.traces and spec.demonstrate is None:
            raise ConfigError(
                f"environment {spec.name!r} has no demonstrations to distil on; set lesson.traces=0, which learns from what "
                "the student plays"
            )

    def begin(self, ground: Ground) -> Distilling:
        """The lesson at work.

        Raises:
            ConfigError: the teacher's vocabulary is not the student's.
            CheckpointError: the teacher cannot be loaded.
        """
        student = ground.learner.decoder
        teacher = checkpoint.load(self.teacher).requires_grad_(False).to(student.device)
        if teacher.vocab_size != student.vocab_size:
            raise ConfigError(
                f"the teacher knows {teacher.vocab_size} ids, the student {student.vocab_size}; distributions "
                "are compared id by id, so both must share one tokenizer"
            )
        return Distilling(self, ground, SamePrompt(teacher, ground.learner.config.precision))


class SamePrompt:
    """A teacher that sees what the student saw; implements `phronesis.train.learner.Teaches`."""

    def __init__(self, decoder: LanguageModel, precision: Precision = "fp32"):
        self._decoder = decoder
        self.precision: Precision = precision

    @property
    def decoder(self) -> LanguageModel:
        """The teacher."""
        return self._decoder

    def states(self, batch: Batch, packed: Packed) -> Tensor:
        """`[K, D]`, from a forward pass over the same segments."""
        return states(self._decoder, packed, precision=self.precision)


class Distilling:
    """`DistilLesson` at work."""

    def __init__(self, config: DistilLesson, ground: Ground, teacher: SamePrompt):
        """Args: settings, what to work with, who teaches."""
        self.config, self.ground, self.teacher = config, ground, teacher

    async def learn(self, step: int, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> Learned:
        """One update towards the teacher; credit is not read."""
        learner = self.ground.learner
        batch = attempts_batch(groups, self.ground.batch)
        found = {"distil/attempts": float(len(batch.episodes))}
        wanted = round(self.config.traces * sum(len(g.episodes) for g in groups))
        if wanted:
            room = learner.decoder.max_positions
            traces, left_out = fitting([t for i in range(wanted) for t in await self._shown(step, i)], room)
            names = [f"trace-{step}-{i}" for i in range(len(traces))]
            shown = scored(
                traces_batch(traces, names), learner.decoder, max_tokens=learner.config.max_tokens,
                precision=learner.config.precision,
            )  # fmt: skip
            batch = joined(batch, shown)
            found |= {"distil/traces": float(len(traces)), "distil/left_out_too_long": float(left_out)}
        update = learner.update(batch, self.teacher)
        return Learned(update, found | divergence_of(update.shares))

    async def _shown(self, step: int, index: int) -> list[Trace]:
        """A demonstration as traces; which one is a function of seed, step and index."""
        show = self.ground.stage.spec.demonstrate
        assert show is not None  # refused by `begin`
        own = stream(self.ground.seed, "distil", step, index)
        return encode(await show(own % (self.ground.stage.spec.sizes.get("train") or (1 << 31)), own), self.ground.stage.chat)


def divergence_of(shares: dict[str, float]) -> dict[str, float]:
    """The mean divergence as a metric, where it was computed."""
    return {"distil/divergence": shares["divergence"]} if "divergence" in shares else {}


def gathered(table_RD: Tensor, rows: Sequence[int]) -> Tensor:
    """Rows of a table in another order, `[K, D]`."""
    return table_RD.index_select(0, torch.tensor(rows, dtype=torch.int64, device=table_RD.device))
