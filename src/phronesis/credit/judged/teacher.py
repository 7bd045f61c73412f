"""On-policy distillation as credit: each sampled token is worth how much likelier the teacher finds it than the student did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Protocol, runtime_checkable

from msgspec import Struct

from phronesis.credit.rule import CreditRule, Rerun, TokenValues, members
from phronesis.credit.side import token_credit
from phronesis.errors import ConfigError
from phronesis.records import Credit, EpisodeGroup


class TeacherScores(Protocol):
    """A teacher's log-probabilities; handed to rules that ask for them by `NeedsTeacher`."""

    def __call__(self, group: EpisodeGroup) -> dict[int, TokenValues]:
        """Nats of each token of the group's episodes that can be scored, by the episode's index, at the temperature it was
        sampled with; 0 at forced tokens."""
        ...


@runtime_checkable
class NeedsTeacher(Protocol):
    """A credit rule that cannot work without a teacher's log-probabilities. Its unbound `assign` refuses."""

    teacher: str
    """Checkpoint directory of the teacher."""

    def with_teacher(self, scores: TeacherScores) -> CreditRule:
        """The same rule, able to assign credit."""
        ...


def opd_advantages(student: Sequence[float], teacher: Sequence[float], *, coef: float = 1.0) -> tuple[float, ...]:
    """``-coef * (log pi - log teacher)`` per token; no reward-to-go, no baseline, no gradient.

    It is the per-token estimate of -KL(student || teacher) under the student's own samples, so that policy-gradient steps with
    it as advantage lower that divergence. [-.5, -2, -1] against [-1, -.5, -1]: (-.5, 1.5, 0).

    Source: on-policy distillation as in slime (coef 1), after arXiv 2306.13649; formula [opd].
    """
    return tuple(coef * (t - s) for s, t in zip(student, teacher, strict=True))


class OPDCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="opd"):
    """On-policy distillation; rewards are not read.   See `opd_advantages`.

    The student's log-probabilities are those its sampler recorded, so the credit is exact when the batch is learned on-policy.
    An episode the group's rewards say nothing of (a fault, never scored) is left out as under any other rule.
    """

    needs_siblings: ClassVar[bool] = False
    """A lone episode has credit."""
    teacher: str
    """Checkpoint directory of the teacher, as `save_pretrained` writes it; it must have the student's vocabulary."""
    coef: float = 1.0
    """Scale of the advantage, above 0."""

    def __post_init__(self) -> None:
        if not self.teacher:
            raise ConfigError("opd teacher is empty; name the checkpoint directory of the model to learn from")
        if not (isfinite(self.coef) and self.coef > 0):
            raise ConfigError(f"opd coef {self.coef!r} must be above 0")

    def with_teacher(self, scores: TeacherScores) -> CreditRule:
        """The rule with its teacher."""
        return _Taught(self, scores)

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Refuses: there is no teacher.

        Raises:
            ConfigError: always; `with_teacher` gives a rule that assigns.
        """
        raise ConfigError(
            "credit rule 'opd' was given no teacher; name a checkpoint directory in credit.teacher and train with a run, or "
            "bind one with with_teacher"
        )


@dataclass(frozen=True)
class _Taught:
    """`OPDCredit` with its teacher."""

    needs_siblings: ClassVar[bool] = False
    """A lone episode has credit."""
    config: OPDCredit
    """Settings."""
    scores: TeacherScores
    """The teacher."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        scored = self.scores(group)
        found: dict[int, list[tuple[float, ...]]] = {}
        for e in members(group, compared=False).kept:
            turns = zip(group.episodes[e].turns, scored.get(e, ()), strict=e in scored)
            found[e] = [opd_advantages(t.logprobs, row, coef=self.config.coef) for t, row in turns]
        return token_credit(group, found)
