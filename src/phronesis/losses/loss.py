"""A loss as configured: one token objective, one aggregation, corrections, and what is added (entropy bonus, reference KL).

A new objective is a frozen Struct with `terms`; adding it to `AnyObjective` makes it a config value, and likewise for
corrections. Losses that need more than per-token terms implement `Loss` directly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.aggregation import Aggregation, TokenMean, aggregate
from phronesis.losses.composite import Stream, composite
from phronesis.losses.corrections.base import combine, rejected
from phronesis.losses.corrections.rejection import GeometricReject, K2Reject, K3Reject, OffPolicySequenceMask, TopEntropy, Veto
from phronesis.losses.corrections.truncation import IcePop, SequenceMIS, SequenceTIS, TokenMIS, TokenTIS
from phronesis.losses.distillation.dft import DFTLoss
from phronesis.losses.distillation.sampled import CrossStageLoss, OPDMaskedLoss, SDARLoss
from phronesis.losses.distillation.supervised import SupervisedLoss, negative_log_likelihood
from phronesis.losses.distillation.whole import GKDLoss, SDPOLoss
from phronesis.losses.divergence.kl import kl_k1, kl_k2, kl_k3
from phronesis.losses.divergence.kl_penalty import KLInLoss, KLPenalty
from phronesis.losses.inputs import LossInputs, LossOutput, Scope, log_ratio, masked_sum, widest
from phronesis.losses.objectives.clipping import GPPOLoss, TwoSidedLoss
from phronesis.losses.objectives.covariance import ClipCovLoss, KLCovLoss
from phronesis.losses.objectives.decoupled import DecoupledPPOLoss
from phronesis.losses.objectives.entropy import EntropyTarget
from phronesis.losses.objectives.policy_gradient import PPOClipLoss, ReinforceLoss
from phronesis.losses.objectives.second_moment import M2POLoss
from phronesis.losses.objectives.sequence_level import GMPOLoss, GSPOLoss, LUSPOLoss, VESPOLoss
from phronesis.losses.objectives.soft_gate import SAPOLoss
from phronesis.losses.objectives.trust_region import DPPOLoss, DROLoss, SymmetricTVLoss
from phronesis.losses.objectives.weighted import CISPOLoss, DISLoss

Loss = Callable[[LossInputs], LossOutput]
"""A pure function of tensors."""

AnyObjective = (
    ReinforceLoss
    | PPOClipLoss
    | SupervisedLoss
    | DFTLoss
    | OPDMaskedLoss
    | SDARLoss
    | CrossStageLoss
    | GKDLoss
    | SDPOLoss
    | GPPOLoss
    | TwoSidedLoss
    | CISPOLoss
    | DISLoss
    | SAPOLoss
    | DPPOLoss
    | SymmetricTVLoss
    | DROLoss
    | DecoupledPPOLoss
    | GSPOLoss
    | LUSPOLoss
    | GMPOLoss
    | VESPOLoss
    | M2POLoss
    | ClipCovLoss
    | KLCovLoss
)
"""The built-in objectives, told apart by their tag in configs."""

AnyCorrection = (
    TokenTIS
    | SequenceTIS
    | SequenceMIS
    | TokenMIS
    | IcePop
    | GeometricReject
    | Veto
    | K3Reject
    | K2Reject
    | OffPolicySequenceMask
    | TopEntropy
)
"""The built-in corrections, told apart by their tag in configs."""


class LossConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which loss to minimise."""

    objective: AnyObjective = ReinforceLoss()
    """Loss of one token."""
    aggregation: Aggregation = TokenMean()
    """How tokens are weighed."""
    entropy_bonus: float = 0.0
    """Added as ``-entropy_bonus * mean entropy`` (nats, exact entropy of trained tokens); 0 means none."""
    entropy_target: EntropyTarget | None = None
    """Moves the bonus during the run, starting at `entropy_bonus`; None keeps it."""
    corrections: tuple[AnyCorrection, ...] = ()
    """Weights and exclusions for what the sampler and the learner disagree on; they act on the objective alone."""
    normalise_weights: bool = False
    """Divide the corrections' weights by their mean over the step, after truncation."""
    kl: KLPenalty | None = None
    """Divergence from a frozen copy of the initial weights, which doubles the memory for weights; None means none."""

    observations: float = 0.0
    """Weight of the cross-entropy on what the environment said, a stream with its own denominator (ECHO: .1); needs
    ``batch.observations``. 0 means none."""

    def __post_init__(self) -> None:
        for name in ("entropy_bonus", "observations"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)!r} must not be negative")

    @property
    def scope(self) -> Scope:
        """What the loss of a token may depend on."""
        parts: list[object] = [self.objective, self.aggregation, *self.corrections, self.kl]
        widened = widest(parts)
        return "step" if self.normalise_weights and self.corrections else widened

    @property
    def needs_entropy(self) -> bool:
        """Whether the exact entropy of each token is read."""
        return self.entropy_gradient or any(isinstance(c, TopEntropy) for c in self.corrections)

    @property
    def entropy_gradient(self) -> bool:
        """Whether the entropy is differentiated."""
        return self.entropy_bonus > 0 or self.entropy_target is not None

    def build(self) -> Loss:
        """The pure function this describes."""

        def loss(inputs: LossInputs) -> LossOutput:
            return evaluate(self, inputs)

        return loss


def evaluate(config: LossConfig, inputs: LossInputs) -> LossOutput:
    """The configured loss of some or all tokens of a step, with the metrics every loss has.

    The objective's token losses are multiplied by the corrections' weights and aggregated over the tokens that are not
    rejected; bonus and divergence are aggregated over all trained tokens, so that corrections do not scale them.

    Returns:
        `sums` holds `kl_k1`, `kl_k2`, `kl_k3` (from old to theta, nats), the shares of objective and corrections, `ref_kl`
        (the configured estimate, nats) with a reference, and `entropy` when it was computed; each divided by the step's
        trained tokens (left-out episodes do not dilute them, rejected tokens count). `observation_loss`, where there is that
        stream, is per observed token.
        `maxima` holds `ratio`, the largest pi_theta / pi_old.

    Raises:
        ConfigError: an entropy bonus without `inputs.entropy_N`, or a penalty without `inputs.logp_ref_N`.
    """
    given, inputs = inputs, inputs.cleaned()
    added = _added(config, inputs)
    charged = inputs if added.advantages_N is None else inputs._replace(advantages_N=added.advantages_N)
    terms = config.objective.terms(charged)
    loss_N, kept, shares = terms.loss_N, charged, dict(terms.shares)
    if config.corrections:
        found = combine(config.corrections, charged, normalise=config.normalise_weights)
        loss_N = loss_N if found.weight_N is None else loss_N * found.weight_N
        kept = charged if found.keep_N is None else rejected(charged, found.keep_N)
        shares |= found.shares or {}
    loss = aggregate(loss_N, kept, config.aggregation)
    if added.loss_N is not None:
        loss = loss + aggregate(added.loss_N, inputs, config.aggregation)
    sums = _sums(inputs, shares | added.shares)
    if config.observations and given.observed_N is not None:
        said = composite([_observations(given, given.observed_N)])
        loss = loss + config.observations * said
        sums["observation_loss"] = said.detach()
    largest = log_ratio(inputs.logp_theta_N.detach(), inputs.logp_old_N)
    if inputs.mask_N is not None:
        largest = torch.where(inputs.mask_N, largest, -torch.inf)
    maxima = {"ratio": largest.max().exp()} if largest.numel() else {}
    return LossOutput(loss, sums, maxima)


def _observations(inputs: LossInputs, observed_N: Tensor) -> Stream:
    """Cross-entropy on the environment's tokens."""
    loss_N = negative_log_likelihood(inputs.logp_theta_N)
    return Stream(loss_N, observed_N.to(loss_N.dtype), inputs.totals.observed)


class _Added(NamedTuple):
    """What the loss has besides the objective."""

    loss_N: Tensor | None
    """Per token, to be aggregated over all trained tokens."""
    advantages_N: Tensor | None
    """The credit after a penalty in the reward; None when there is none."""
    shares: dict[str, Tensor]
    """For metrics."""


def _added(config: LossConfig, inputs: LossInputs) -> _Added:
    loss_N, advantages_N, shares = None, None, dict[str, Tensor]()
    if config.entropy_gradient:
        if inputs.entropy_N is None:
            raise ConfigError("an entropy bonus needs the exact entropy of each token; set `entropy = true` for the learner")
        coef = inputs.coefficients.entropy
        loss_N = -(config.entropy_bonus if coef is None else coef) * inputs.entropy_N
    kl = config.kl
    if kl is not None:
        if inputs.logp_ref_N is None:
            raise ConfigError("a divergence from the reference needs the reference's log-probabilities (logp_ref_N)")
        coef = kl.coef if inputs.coefficients.kl is None else inputs.coefficients.kl
        values_N = kl.values(inputs, inputs.logp_ref_N)
        shares["ref_kl"] = values_N.detach()
        if isinstance(kl, KLInLoss):
            loss_N = coef * values_N if loss_N is None else loss_N + coef * values_N
        else:
            advantages_N = inputs.advantages_N - coef * kl.charge(values_N, inputs)
    return _Added(loss_N, advantages_N, shares)


def _sums(inputs: LossInputs, shares: dict[str, Tensor]) -> dict[str, Tensor]:
    theta_N, old_N = inputs.logp_theta_N.detach(), inputs.logp_old_N
    values_N = dict(shares)
    # The divergence of old from theta under samples of old: pi is old, the reference is theta.
    values_N |= {"kl_k1": kl_k1(old_N, theta_N), "kl_k2": kl_k2(old_N, theta_N), "kl_k3": kl_k3(old_N, theta_N)}
    if inputs.entropy_N is not None:
        values_N["entropy"] = inputs.entropy_N.detach()
    tokens = inputs.totals.tokens_S.sum().clamp_min(1)
    return {name: masked_sum(x_N.to(theta_N.dtype), inputs.mask_N) / tokens for name, x_N in values_N.items()}
