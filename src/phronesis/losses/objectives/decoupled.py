"""Decoupled PPO: the clip refers to a proximal policy, the weight corrects for the behaviour policy.

Streams: behaviour = `infer` (the sampler, weights that sampled), proximal = `old` (the learner, weights of the update's
start), or an interpolation between behaviour and current policy where recomputing `old` is too dear: at a given share of the
way, or log-linear in the weights' versions, token by token.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.inputs import LossInputs, log_ratio
from phronesis.losses.objectives.clipping import check_eps
from phronesis.losses.objectives.policy_gradient import TokenTerms, ppo_clip


def decoupled(
    logp_theta_N: Tensor, logp_prox_N: Tensor, logp_infer_N: Tensor, advantages_N: Tensor, *, eps_low: float, eps_high: float
) -> TokenTerms:
    """``w J_ppo(r)`` per token `[N]` with w = sg(exp(prox - infer)) and r = exp(theta - prox).

    infer -2, prox -1.5, theta -1.2, A 1, eps .2: w 1.648721, r 1.349859, objective 1.978466. (Coupled PPO would clip
    r = 2.2255 to 1.2 and have no gradient.) The same as `ppo_clip` under the correction `tis_token` without its cap.

    Source: arXiv 2110.00641; AReaL, arXiv 2505.24298; formula [decoupled].
    """
    terms = ppo_clip(logp_theta_N, logp_prox_N, advantages_N, eps_low=eps_low, eps_high=eps_high)
    return TokenTerms(log_ratio(logp_prox_N, logp_infer_N).exp() * terms.loss_N, terms.shares)


def prox_share(v_prox: float, v_behaviour: float, v_theta: float) -> float:
    """How far from the behaviour to the current policy the proximal one lies, by their versions; 0 where those are equal.

    Versions 5, 3, 6: .666667.   Source: AReaL; formula [prox-approx].
    """
    return (v_prox - v_behaviour) / (v_theta - v_behaviour) if v_theta != v_behaviour else 0.0


def prox_shares(v_prox: int, v_behaviour_N: Tensor, v_theta: int) -> Tensor:
    """`prox_share` of every token, float32 `[N]`.

    Behaviour versions (3, 5, 6), proximal 5, current 6: (.666667, 0, 0). What the proximal policy sampled, or a later one,
    needs no interpolation: there the behaviour policy stands for it.
    """
    known, place_N = cast("tuple[Tensor, Tensor]", torch.unique(v_behaviour_N, return_inverse=True))  # pyright: ignore[reportUnknownMemberType]
    versions = cast("list[int]", known.tolist())  # pyright: ignore[reportUnknownMemberType]
    shares = [prox_share(v_prox, v, v_theta) if v < v_prox else 0.0 for v in versions]
    return torch.tensor(shares, device=place_N.device)[place_N]


def approximate_prox(logp_theta_N: Tensor, logp_infer_N: Tensor, share: float | Tensor) -> Tensor:
    """``infer + share (theta - infer)`` without gradient, nats `[N]`: the proximal policy without a forward pass.

    infer -2, theta -1.2, share 2/3: -1.466667.   Source: AReaL; formula [prox-approx].
    """
    return torch.lerp(logp_infer_N, logp_theta_N.detach(), share)


class DecoupledPPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="decoupled_ppo"):
    """PPO with separate proximal and behaviour policies.   See `decoupled`."""

    eps_low: float = 0.2
    """How far theta / prox may fall below 1, in (0, 1)."""
    eps_high: float = 0.2
    """How far theta / prox may rise above 1, above 0."""
    prox_share: float | Literal["versions"] | None = None
    """None: the proximal policy is `old`. Else it is approximated at this share of the way from sampler to current policy, in
    [0, 1]; ``versions`` takes the share of each token from the versions of the weights (see `prox_share`)."""

    def __post_init__(self) -> None:
        check_eps("decoupled_ppo", self.eps_low, self.eps_high)
        if isinstance(self.prox_share, float | int) and not 0.0 <= self.prox_share <= 1.0:
            raise ConfigError(f"decoupled_ppo prox_share {self.prox_share!r} must be in [0, 1], 'versions' or null for none")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `decoupled`.

        Raises:
            ConfigError: the shares are to come from versions, and the batch has none.
        """
        theta_N, infer_N, prox_N = inputs.logp_theta_N, inputs.logp_infer_N, inputs.logp_old_N
        if self.prox_share == "versions":
            if inputs.versions is None:
                raise ConfigError('decoupled_ppo prox_share "versions" needs a batch that notes which weights sampled it')
            shares_N = prox_shares(inputs.versions.prox, inputs.versions.behaviour_N, inputs.versions.theta)
            prox_N = approximate_prox(theta_N, infer_N, shares_N.to(theta_N.dtype))
        elif self.prox_share is not None:
            prox_N = approximate_prox(theta_N, infer_N, self.prox_share)
        return decoupled(theta_N, prox_N, infer_N, inputs.advantages_N, eps_low=self.eps_low, eps_high=self.eps_high)
