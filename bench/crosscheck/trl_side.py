"""TRL's numbers: ``python -m bench.crosscheck.trl_side OUT.pt`` inside TRL's own environment.

Losses run in TRL's methods on a stand-in for the trainer that hands out our log-probabilities. What TRL computes in the middle
of a long method is run from that method's own lines (`lines`), cut out by their text; a version that words them otherwise
fails loudly.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
import textwrap
from collections import defaultdict
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor
from trl.experimental.gkd import GKDTrainer
from trl.experimental.gmpo import GMPOTrainer
from trl.experimental.sdpo.loss_utils import compute_full_logit_self_distillation_loss, compute_topk_self_distillation_loss
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.utils import nanstd

from bench.crosscheck import inputs as shared
from bench.crosscheck.inputs import Inputs, differentiate


def lines(owner: type, first: str, last: str, drop: int = 0) -> str:
    """Source lines of a class from the one that begins with `first` to the next with `last` in it, less `drop` at the end."""
    source = inspect.getsource(owner).splitlines()
    start = next(i for i, line in enumerate(source) if line.strip().startswith(first))
    stop = next(i for i in range(start, len(source)) if last in source[i])
    return textwrap.dedent("\n".join(source[start : stop + 1 - drop]))


def run(code: str, **scope: object) -> dict[str, object]:
    """Executes lines of TRL over the given names; all names afterwards."""
    names: dict[str, object] = {"torch": torch, "math": math, "F": F, "nanstd": nanstd, **scope}
    exec(code, names)
    return names


def loss(given: Inputs, kind: str, *, owner: type = GRPOTrainer, ratio: Tensor | None = None, **settings: object) -> Tensor:
    """TRL's loss and gradient."""
    theta = given.theta.clone().requires_grad_()
    mask = given.mask.to(torch.float64)
    accelerator = SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        reduce=lambda x, reduction="sum": x,
        pad_across_processes=lambda x, dim, pad_index: x,
    )
    arguments = SimpleNamespace(
        delta=settings.get("delta"),
        use_bias_correction_kl=settings.get("bias_correction", False),
        steps_per_generation=1,
        sapo_temperature_pos=shared.SAPO["tau_pos"],
        sapo_temperature_neg=shared.SAPO["tau_neg"],
        vespo_k_pos=shared.VESPO["k_pos"],
        vespo_lambda_pos=shared.VESPO["lam_pos"],
        vespo_k_neg=shared.VESPO["k_neg"],
        vespo_lambda_neg=shared.VESPO["lam_neg"],
    )
    trainer = SimpleNamespace(
        args=arguments,
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _entropy_bonus_enabled=False,
        aux_loss_enabled=False,
        loss_type=kind,
        importance_sampling_level=settings.get("level", "token"),
        beta=settings.get("beta", 0.0),
        epsilon_low=settings.get("eps_low", shared.PPO["eps_low"]),
        epsilon_high=settings.get("eps_high", shared.PPO["eps_high"]),
        max_completion_length=shared.LENGTH,
        top_entropy_quantile=settings.get("top_entropy", 1.0),
        off_policy_mask_threshold=settings.get("off_policy"),
        use_vllm=ratio is not None,
        vllm_importance_sampling_correction=ratio is not None,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        _get_per_token_logps_and_entropies=lambda *a, **k: (theta, given.entropies, None),
    )
    trainer.get_high_entropy_mask = functools.partial(GRPOTrainer.get_high_entropy_mask, trainer)
    ids = torch.zeros(given.mask.shape, dtype=torch.int64)
    batch = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1] + 1,
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": given.advantages,
        "old_per_token_logps": given.old,
        "ref_per_token_logps": given.ref,
        "sampling_per_token_logps": given.infer,
        "num_items_in_batch": given.mask.sum(),
        "importance_sampling_ratio": ratio,
    }
    return differentiate(owner._compute_loss(trainer, None, batch), theta)


def group_advantages(given: Inputs, scale: str) -> Tensor:
    """Advantages of GRPO."""
    code = lines(GRPOTrainer, "mean_grouped_rewards = torch.nanmean(rewards.view", "advantages = advantages / (std_rewards")
    trainer = SimpleNamespace(scale_rewards=scale)
    return run(code, self=trainer, rewards=given.rewards.clone(), num_generations=shared.GROUP)["advantages"]


def summed_advantages(given: Inputs) -> Tensor:
    """Advantages over two kinds of reward, each normalised by itself."""
    code = lines(GRPOTrainer, "grouped = rewards_per_func.view", "advantages = (rewards - torch.nanmean(rewards))")
    trainer = SimpleNamespace(reward_funcs=[None, None], reward_weights=torch.ones(2, dtype=torch.float64))
    kinds = torch.stack((given.rewards, given.more), 1)
    scope = {"rewards_per_func": kinds, "num_generations": shared.GROUP, "device": "cpu"}
    return run(code, self=trainer, unscorable_mask=torch.isnan(kinds).all(1), **scope)["advantages"]


def leave_one_out(given: Inputs) -> Tensor:
    """Advantages of RLOO."""
    code = lines(RLOOTrainer, "scorable_counts = ", "advantages = torch.nan_to_num(")
    trainer = SimpleNamespace(normalize_advantages=False)
    grouped = given.rewards.view(-1, shared.GROUP)
    return run(code, self=trainer, rewards=given.rewards, grouped_rewards=grouped, num_generations=shared.GROUP)["advantages"]


def ratio(given: Inputs, mode: str, low: float | None, high: float) -> Tensor:
    """The weight for the mismatch between learner and sampler, `[B, T]` or `[B, 1]`."""
    code = lines(GRPOTrainer, "per_token_logps_diff = (old_per_token_logps", 'f"Unknown vLLM importance sampling level', drop=3)
    trainer = SimpleNamespace(
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
    )
    scope = {"old_per_token_logps": given.old, "sampling_per_token_logps": given.infer, "mask": given.mask.to(torch.float64)}
    return run(code, self=trainer, **scope)["vllm_importance_sampling_ratio"]


def preference(given: Inputs, first: str, last: str) -> Tensor:
    """Losses of pairs."""
    trainer = SimpleNamespace(beta=shared.BETA)
    ones = torch.ones(2 * shared.PAIRS, 1, dtype=torch.float64)  # answers of one token: TRL's IPO divides by the length
    scope = {"chosen_scores": given.chosen, "rejected_scores": given.rejected, "completion_mask": ones}
    delta = given.chosen - given.rejected
    return run(lines(DPOTrainer, first, last), self=trainer, delta_score=delta, **scope)["per_sequence_loss"]


def numbers(given: Inputs) -> dict[str, Tensor]:
    """Everything, by the name the comparison gives it."""
    gspo = {"level": "sequence", **shared.GSPO}
    weights = {
        "tis-token": ratio(given, "token_truncate", None, shared.TIS_CAP),
        "mis": ratio(given, "token_mask", *shared.MIS),
        "tis-seq": ratio(given, "sequence_truncate", None, shared.SEQUENCE_CAP),
        "tis-seq-mask": ratio(given, "sequence_mask", None, shared.SEQUENCE_MASK_CAP),
    }
    jsd = GKDTrainer.generalized_jsd_loss
    return {
        "grpo": group_advantages(given, "group"),
        "drgrpo": group_advantages(given, "none"),
        "lite-ppo": group_advantages(given, "batch"),
        "gdpo": summed_advantages(given),
        "rloo": leave_one_out(given),
        "ppo, sequence mean of token means": loss(given, "grpo"),
        "ppo, token mean": loss(given, "dapo"),
        "ppo, token mean of the micro-batch": loss(given, "bnpo"),
        "ppo, constant norm": loss(given, "dr_grpo"),
        "two-sided": loss(given, "dapo", delta=shared.DELTA),
        "gspo": loss(given, "grpo", **gspo),
        "luspo": loss(given, "luspo", **gspo),
        "gmpo": loss(given, "grpo", owner=GMPOTrainer, eps_low=shared.GMPO_CLIP, eps_high=shared.GMPO_CLIP),
        "cispo": loss(given, "cispo", eps_high=shared.CISPO_CAP),
        "sapo": loss(given, "sapo"),
        "vespo": loss(given, "vespo"),
        "k3 in the loss": loss(given, "dapo", beta=shared.KL_COEF),
        "unbiased KL in the loss": loss(given, "dapo", beta=shared.KL_COEF, bias_correction=True),
        "opsm": loss(given, "dapo", off_policy=shared.OPSM),
        "ent-top": loss(given, "dapo", top_entropy=shared.TOP_ENTROPY),
        **{name: loss(given, "dapo", ratio=weight) for name, weight in weights.items()},
        "dpo": preference(given, "per_sequence_loss = -F.logsigmoid(self.beta * delta_score)", "per_sequence_loss"),
        "ipo": preference(given, "chosen_mask, rejected_mask = completion_mask.chunk", "per_sequence_loss = (ipo_delta"),
        "jsd": jsd(given.student, given.teacher, beta=shared.JSD_BETA, reduction="none").sum(-1),
        "jsd, beta 0": jsd(given.student, given.teacher, beta=0, reduction="none").sum(-1),
        "jsd, beta 1": jsd(given.student, given.teacher, beta=1, reduction="none").sum(-1),
        "sdpo": compute_full_logit_self_distillation_loss(given.student, given.teacher, distillation_alpha=shared.JSD_BETA),
        "sdpo, top 3 and tail": compute_topk_self_distillation_loss(
            given.student,
            given.teacher,
            distillation_topk=3,
            distillation_alpha=shared.JSD_BETA,
            distillation_add_tail=True,
        ),
    }


if __name__ == "__main__":
    torch.save([numbers(shared.draw(seed)) for seed in shared.SEEDS], sys.argv[1])
