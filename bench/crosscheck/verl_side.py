"""verl's numbers: ``python -m bench.crosscheck.verl_side OUT.pt`` inside verl's own environment, without a GPU."""

from __future__ import annotations

import random
import sys
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights, compute_rollout_rejection_mask
from verl.utils import torch_functional
from verl.workers.config import ActorConfig, PolicyLossConfig

from bench.crosscheck import inputs as shared
from bench.crosscheck.inputs import Inputs, differentiate, last_token


def loss(given: Inputs, kind: str, mode: str = "token-mean", **settings: object) -> Tensor:
    """verl's loss and gradient."""
    weights = settings.pop("weights", None)
    mask = settings.pop("mask", given.mask)
    old = settings.pop("old", given.old)
    advantages = settings.pop("advantages", given.token_advantages)
    policy = PolicyLossConfig(
        clip_cov_ratio=1.0,
        clip_cov_lb=shared.COV["low"],
        clip_cov_ub=shared.COV["high"],
        kl_cov_ratio=shared.KL_COV["fraction"],
        ppo_kl_coef=shared.KL_COV["coef"],
        dro_beta=shared.DRO_BETA,
    )
    clip = {"clip_ratio_low": shared.PPO["eps_low"], "clip_ratio_high": shared.PPO["eps_high"], "clip_ratio_c": shared.DUAL}
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        use_dynamic_bsz=True,
        policy_loss=policy,
        tau_pos=1.0,
        tau_neg=1.05,
        **{**clip, **settings},
    )
    theta = given.theta.clone().requires_grad_()
    function = core_algos.get_policy_loss_fn(kind)
    found, _ = function(old, theta, advantages, mask.to(torch.float64), mode, config, weights)
    return differentiate(found, theta)


def tiled(given: Inputs) -> Tensor:
    """Each sequence's advantage on all its positions."""
    return given.advantages[:, None].expand_as(given.theta).contiguous()


def corrections(given: Inputs) -> dict[str, Tensor]:
    """Clipped PPO under what corrects the mismatch between learner and sampler."""
    mask = given.mask.to(torch.float64)
    log_ratio = given.old - given.infer

    def weighted(level: str, threshold: float | str, normalise: bool = False) -> Tensor:
        weight, _ = compute_rollout_correction_weights(log_ratio, mask, level, threshold, normalise)
        return loss(given, "vanilla", weights=weight)

    def rejected(option: str, threshold: str) -> Tensor:
        kept, _ = compute_rollout_rejection_mask(log_ratio, mask, option, threshold)
        return loss(given, "vanilla", mask=kept)

    low, high = shared.GEOMETRIC
    return {
        "tis-token": weighted("token", shared.TIS_CAP),
        "tis-token, normalised": weighted("token", shared.TIS_CAP, True),
        "tis-seq": weighted("sequence", shared.SEQUENCE_CAP),
        "mis": weighted("token", "_".join(map(str, shared.MIS))),
        "geo-reject": rejected("seq_mean_k1", f"{low}_{high}"),
        "k2-reject": rejected("token_k2", str(shared.K2)),
        "k2-reject, sequence": rejected("seq_mean_k2", str(shared.K2)),
        "k3-reject": rejected("seq_mean_k3", str(shared.K3)),
    }


def advantages(given: Inputs) -> dict[str, Tensor]:
    """Every estimator, `[B, T]`."""
    mask = given.mask.to(torch.float64)
    index = np.array(given.groups)
    scores = last_token(given.mask, given.rewards)
    common = {"token_level_rewards": scores, "response_mask": mask}
    last = given.mask.shape[1] - 1
    both = core_algos.compute_gdpo_outcome_advantage(
        **common,
        index=index,
        config={"gdpo_reward_keys": ["first", "second"]},
        non_tensor_batch={"first": given.rewards.numpy(), "second": given.more.numpy()},
        # where verl puts a score does not matter, it adds up each row
        batch={"prompts": torch.zeros(len(index), 0), "attention_mask": torch.ones(len(index), last + 1, dtype=torch.int64)},
    )
    estimate = core_algos.compute_gae_advantage_return(given.token_rewards, given.values, mask, shared.GAMMA, shared.LAM)
    whole = shared.without_holes(given)
    straight = {
        "token_level_rewards": last_token(whole.mask, given.rewards),
        "response_mask": whole.mask.to(torch.float64),
    }
    energy = {"old_log_probs": given.old, "sum_pi_squared": given.squares}
    return {
        "grpo": core_algos.compute_grpo_outcome_advantage(**common, index=index)[0],
        "drgrpo": core_algos.compute_grpo_outcome_advantage(**common, index=index, norm_adv_by_std_in_grpo=False)[0],
        "rloo": core_algos.compute_rloo_outcome_advantage(**common, index=index)[0],
        "passk-adv": core_algos.compute_grpo_passk_outcome_advantage(**common, index=index, config={})[0],
        "opo": core_algos.compute_opo_outcome_advantage(**common, index=index)[0],
        "rfpp-baseline": core_algos.compute_reinforce_plus_plus_baseline_outcome_advantage(**common, index=index)[0],
        "rfpp": core_algos.compute_reinforce_plus_plus_outcome_advantage(**common, config=SimpleNamespace(gamma=shared.GAMMA))[
            0
        ],
        "remax": core_algos.compute_remax_outcome_advantage(**common, reward_baselines=given.greedy)[0] * mask,
        "gpg, verl's alpha": core_algos.compute_gpg_outcome_advantage(**common, index=index)[0],
        "gdpo": both[0],
        "otb, no holes": core_algos.compute_optimal_token_baseline_advantage(**straight, index=index, **energy)[0],
        "gae-skip": torch.cat((estimate[0] * mask, estimate[1] * mask)),
        "whiten": torch_functional.masked_whiten(given.values, mask) * mask,
    }


def numbers(given: Inputs) -> dict[str, Tensor]:
    """Everything, by the name the comparison gives it."""
    mask = given.mask.to(torch.float64)
    torch.manual_seed(0)
    gspo = {"clip_ratio_low": shared.GSPO["eps_low"], "clip_ratio_high": shared.GSPO["eps_high"]}
    gmpo = {"clip_ratio_low": shared.GMPO_CLIP, "clip_ratio_high": shared.GMPO_CLIP, "advantages": tiled(given)}
    controller = core_algos.AdaptiveKLController(0.2, 0.1, 10000)
    controller.update(0.3, 64)
    modes = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")

    def penalty(kind: str) -> Tensor:
        theta = given.theta.clone().requires_grad_()
        return differentiate((core_algos.kl_penalty(theta, given.ref, kind) * mask).sum(), theta)

    def critic() -> Tensor:
        values = given.new_values.clone().requires_grad_()
        found, _ = core_algos.compute_value_loss(values, given.returns, given.values, mask, shared.VALUE_CLIP)
        return differentiate(found, values)

    cispo = {"clip_ratio_low": 1.0, "clip_ratio_high": shared.CISPO_CAP - 1.0}
    dppo = {"clip_ratio_low": shared.DPPO, "clip_ratio_high": shared.DPPO, "clip_ratio_c": 1e6, "old": given.infer}
    return {
        **advantages(given),
        **{f"ppo with dual clip, {mode}": loss(given, "vanilla", mode) for mode in modes},
        "gspo": loss(given, "gspo", "seq-mean-token-mean", advantages=tiled(given), **gspo),
        "gmpo": loss(given, "geo_mean", **gmpo),
        "cispo": loss(given, "cispo", **cispo),
        "sapo": loss(given, "sapo"),
        "dppo-tv": loss(given, "dppo_tv", **dppo),
        "dro": loss(given, "dro", old=given.infer),
        "clip-cov, gradient": loss(given, "clip_cov")[1:],
        "kl-cov": loss(given, "kl_cov"),
        **corrections(given),
        "k1": penalty("k1"),
        "k2": penalty("k2"),
        "k3": penalty("k3"),
        "k3plus": penalty("k3+"),
        "adaptive-kl": torch.tensor([controller.value], dtype=torch.float64),
        "value-clip": critic(),
        "entropy": torch_functional.entropy_from_logits(given.student),
    }


if __name__ == "__main__":
    random.seed(0)
    torch.save([numbers(shared.draw(seed)) for seed in shared.SEEDS], sys.argv[1])
