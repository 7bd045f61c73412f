"""Objectives over whole distributions: GKD and SDPO as config values.

The learner hands them the student's and the teacher's log-probabilities of every id, some tokens at a time, so that no more
than a slice of them exists at once; what the loss then reads is one divergence per token. Which teacher, and what it is
shown, is the run's lesson (`distil`, `self_distil`).

Shapes: N tokens, V vocabulary, K kept ids.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.distillation.distributions import jensen_shannon, sdpo, top_and_tail
from phronesis.losses.inputs import LossInputs
from phronesis.losses.objectives.policy_gradient import TokenTerms

Keeper = Literal["student", "teacher"]
"""Whose most likely ids are kept."""


@runtime_checkable
class ReadsDistributions(Protocol):
    """An objective that compares whole distributions."""

    def divergence(self, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        """Nats `[N]` from log-probabilities; no gradient flows into the teacher's."""
        ...


def coarsened(student_NV: Tensor, teacher_NV: Tensor, top: int | None, of: Keeper) -> tuple[Tensor, Tensor]:
    """Both distributions over the `top` most likely ids and all others together; as they are where `top` is None or V.

    See `top_and_tail`, whose rule for the tail this is: one outcome that holds the rest of the probability.
    """
    if top is None or top >= student_NV.shape[-1]:
        return student_NV, teacher_NV
    ids_NK = (student_NV.detach() if of == "student" else teacher_NV).topk(top, -1).indices
    return top_and_tail(student_NV, ids_NK), top_and_tail(teacher_NV, ids_NK)


class GKDLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="gkd"):
    """Generalised Jensen-Shannon divergence between student and teacher; advantages are not read.   See `jensen_shannon`."""

    beta: float = 0.5
    """Share of the teacher in the mixture, in [0, 1]: 0 is the forward KL(T || S), 1 the reverse KL(S || T)."""
    top: int | None = None
    """Compare only so many ids and the rest together, at least 1; None compares all."""
    of: Keeper = "teacher"
    """Whose most likely ids those are; ours."""

    def __post_init__(self) -> None:
        _check("gkd", "beta", self.beta, self.top)

    def divergence(self, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        """Applies `jensen_shannon`."""
        return jensen_shannon(*coarsened(student_NV, teacher_NV, self.top, self.of), beta=self.beta)

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """The divergences as token losses."""
        return _terms(inputs, "gkd")


class SDPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sdpo"):
    """Divergence from the policy that knows better; advantages are not read.   See `sdpo`.

    Its published weight, theta over sampler cut at 2, is the correction `tis_token` with ``of = "theta"``.
    """

    alpha: float = 0.5
    """0 is the forward KL(T || S), 1 the reverse KL(S || T); in [0, 1]."""
    top: int | None = 100
    """Compare only so many ids and the rest together, at least 1; None compares all."""
    of: Keeper = "student"
    """Whose most likely ids those are; ours."""

    def __post_init__(self) -> None:
        _check("sdpo", "alpha", self.alpha, self.top)

    def divergence(self, student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
        """Applies `sdpo`."""
        return sdpo(*coarsened(student_NV, teacher_NV, self.top, self.of), alpha=self.alpha)

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """The divergences as token losses."""
        return _terms(inputs, "sdpo")


def _terms(inputs: LossInputs, name: str) -> TokenTerms:
    if inputs.divergence_N is None:
        raise ConfigError(
            f"objective {name!r} compares whole distributions and was given none; set lesson.type to 'distil' (with a teacher) "
            "or 'self_distil'"
        )
    return TokenTerms(inputs.divergence_N, {"divergence": inputs.divergence_N.detach()})


def _check(name: str, field: str, share: float, top: int | None) -> None:
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"{name} {field} {share!r} must lie in [0, 1]")
    if top is not None and top < 1:
        raise ConfigError(f"{name} top {top!r} must be at least 1, or null for all ids")
