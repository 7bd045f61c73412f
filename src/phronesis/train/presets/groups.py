"""Presets that differ in what a reward is compared with: baselines over the group, over the step, over the past."""

from __future__ import annotations

from phronesis.credit import (
    GDPOCredit,
    GPGCredit,
    GroupMean,
    GroupStandard,
    LeaveOneOut,
    LitePPOCredit,
    MaxRL,
    NoBaseline,
    OPOCredit,
    OptimalTokenCredit,
    ReinforcePPBaselineCredit,
    ReinforcePPCredit,
    ReMaxCredit,
    RoleBaselineCredit,
    TrajectoryCredit,
    TurnReturnCredit,
)
from phronesis.losses import ConstantNorm, KLInLoss, LossConfig, PPOClipLoss, ReinforceLoss
from phronesis.train.batching import BatchConfig
from phronesis.train.config import RunConfig
from phronesis.train.dynamic import DynamicConfig
from phronesis.train.presets.algorithm import PASSES, Algorithm, clipped, horizon, per_token

Z_SCORE = TrajectoryCredit(baseline=GroupStandard())
"""``A = (R - mean) / (std + 1e-6)`` over the group, on every sampled token."""
MEAN = TrajectoryCredit(baseline=GroupMean())
"""``A = R - mean`` over the group."""


def on_policy(run: RunConfig) -> LossConfig:
    """REINFORCE on the sum over an episode's tokens, divided by a constant: the policy gradient itself, up to its scale."""
    return LossConfig(objective=ReinforceLoss(), aggregation=ConstantNorm(horizon=horizon(run)))


def grpo(run: RunConfig) -> Algorithm:
    """GRPO: z-scored rewards of a group, clipped ratio, a k3 divergence from the start in the loss.

    ``A = (R - mean) / std``; ``L = -mean over episodes of mean over tokens of [min(r A, clip(r) A) - beta k3]``.
    Source: arXiv 2402.03300 eq. 3 and 4: beta .04, group 64, one update per batch, eps not published there (.2 in its code's
    ancestors). Ours: eps .2, two passes, group size as in the run, silent episodes kept, since the divergence acts on them too.
    k3 in the loss has the gradient of KL(ref || pi); ``learner.loss.kl.estimator=k3plus`` gives that of KL(pi || ref).
    """
    loss = LossConfig(
        objective=PPOClipLoss(eps_low=0.2, eps_high=0.2),
        aggregation=clipped().aggregation,
        kl=KLInLoss(coef=0.04, estimator="k3"),
    )
    return Algorithm(credit=Z_SCORE, loss=loss, passes=PASSES, batch=BatchConfig(drop_silent=False))


def dr_grpo(run: RunConfig) -> Algorithm:
    """Dr.GRPO: GRPO without its two biases: no division by the spread, none by the episode's length.

    ``A = R - mean``; ``L = -mean over episodes of sum over tokens of min(r A, clip(r) A) / horizon``, no divergence.
    Source: arXiv 2503.20783. Ours: eps .2, two passes; the horizon is the most tokens an episode of the run may sample.
    The advantage is (n-1)/n of leave-one-out, which is a constant factor.
    """
    return Algorithm(credit=MEAN, loss=clipped(aggregation=ConstantNorm(horizon=horizon(run))), passes=PASSES)


def dapo(run: RunConfig) -> Algorithm:
    """DAPO: clip-higher, token mean, groups without signal replaced, overlong episodes left out, no divergence.

    ``A = (R - mean) / std``; ``L = -mean over all tokens of min(r A, clip(r, .8, 1.28) A)``.
    Source: arXiv 2503.14476 eq. 8 to 12: eps .2 and .28, group 16, 512 tasks, 16 updates per batch, overlong buffer 4096 of
    20480 tokens. Ours: at most 10 rounds of play (as verl), overlong filtering instead of the soft penalty (which is a rubric:
    `phronesis.rewards.overlong`), two passes, group size as in the run.
    """
    return Algorithm(
        credit=Z_SCORE,
        loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.28)),
        passes=PASSES,
        dynamic=DynamicConfig(max_rounds=10),
        batch=BatchConfig(drop_truncated=True),
    )


def rloo(run: RunConfig) -> Algorithm:
    """RLOO: REINFORCE with the mean of the siblings as baseline; unbiased.

    ``A_i = R_i - mean of the others``; ``L = -mean over episodes of A sum log pi / horizon``, one update per batch.
    Source: arXiv 2402.14740, which adds a divergence to the reward for preference models; here there is none (ours), and the
    sum is over a constant horizon (ours).
    """
    return Algorithm(credit=TrajectoryCredit(baseline=LeaveOneOut()), loss=on_policy(run))


def reinforce(run: RunConfig) -> Algorithm:
    """REINFORCE: every turn is as good as what is earned from it on; no baseline, unbiased, high variance.

    ``A_k = sum of rewards from turn k``; ``L = -mean over episodes of sum A log pi / horizon``, one update per batch.
    Source: Williams 1992. Ours: the constant horizon. Fit for rewards that are already centred.
    """
    return Algorithm(credit=TurnReturnCredit(gamma=1.0, pool="group", baseline=NoBaseline()), loss=on_policy(run))


def reinforce_pp(run: RunConfig) -> Algorithm:
    """REINFORCE++: token returns, whitened over all tokens of the step instead of within groups, under clipped PPO.

    ``A = (G - mean) / sqrt(var + 1e-8)`` over the step's tokens; ``L = -token mean of min(r A, clip(r) A)``.
    Source: arXiv 2501.03262. Its token-wise k1 penalty is left out (ours: `learner.loss.kl` of type ``reward`` adds one, after
    the whitening). Ours: eps .2, two passes.
    """
    return Algorithm(credit=ReinforcePPCredit(gamma=1.0), loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)), passes=PASSES)


def reinforce_pp_baseline(run: RunConfig) -> Algorithm:
    """REINFORCE++ with a baseline: reward minus the group's mean, whitened over the step's tokens, under clipped PPO.

    Source: arXiv 2501.03262. Ours: eps .2, two passes, no divergence (the source has k2 in the loss).
    """
    return Algorithm(credit=ReinforcePPBaselineCredit(), loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)), passes=PASSES)


def lite_ppo(run: RunConfig) -> Algorithm:
    """LitePPO: reward minus the group's mean over the step's deviation, token mean, clipped PPO, no critic.

    ``A = (R - group mean) / std of the step's rewards``. Source: arXiv 2508.08221; the scope of the deviation is unverified
    there. Ours: eps .2, two passes.
    """
    return Algorithm(credit=LitePPOCredit(), loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)), passes=PASSES)


def gpg(run: RunConfig) -> Algorithm:
    """GPG: plain policy gradient, scaled up by the share of samples in groups that vary; no ratio, no divergence.

    ``A = alpha (R - mean)``, alpha = samples over samples in varying groups; ``L = -token mean of A log pi``, one update.
    Source: arXiv 2504.02546.
    """
    return Algorithm(credit=GPGCredit(), loss=per_token(ReinforceLoss()))


def opo(run: RunConfig) -> Algorithm:
    """OPO: exactly on-policy REINFORCE with the baseline of least variance where gradients grow with length.

    ``b = sum |y| R / sum |y|``, ``A = R - b``; one update per batch, no divergence, no entropy term.
    Source: arXiv 2505.23585; formula [opo]. Ours: the sum is over a constant horizon.
    """
    return Algorithm(credit=OPOCredit(), loss=on_policy(run))


def remax(run: RunConfig) -> Algorithm:
    """ReMax: reward minus that of one greedy episode of the same task; unbiased, no group needed.

    ``A = R - R(greedy)``; ``L = -mean over episodes of A sum log pi / horizon``, one update per batch.
    Source: arXiv 2310.10505; formula [remax]. Ours: the constant horizon, group size as in the run (the source
    samples once per task). The greedy episodes are extra play; metrics ``rerun/*`` count them.
    """
    return Algorithm(credit=ReMaxCredit(), loss=on_policy(run))


def maxrl(run: RunConfig) -> Algorithm:
    """MaxRL: advantages over the group's mean, so that hard tasks weigh more; rewards of at least 0.

    ``A = (R - mean) / mean``, 0 where the mean is 0; one update per batch. Biased on purpose towards maximum likelihood of
    success. Source: arXiv 2602.02710. Ours: the sum is over a constant horizon.
    """
    return Algorithm(credit=TrajectoryCredit(baseline=MaxRL()), loss=on_policy(run))


def gdpo(run: RunConfig) -> Algorithm:
    """GDPO: every reward component is z-scored in its group on its own, their weighted sum once more over the step.

    Source: arXiv 2601.05242. For rewards with several components; with one it is GRPO, scaled. Ours: clipped PPO with eps .2,
    sequence means and two passes, no divergence.
    """
    return Algorithm(credit=GDPOCredit(), loss=clipped(), passes=PASSES)


def otb(run: RunConfig) -> Algorithm:
    """Optimal token baseline: at every token, rewards of the group weighted by how much their gradients have added up.

    ``B_t = sum G W / sum W``, ``W = sum over tokens so far of 1 - 2 pi + sum pi^2``; ``A = G - B``; one update per batch.
    Source: arXiv 2602.07078; formula [otb]. Ours: without `credit.judge` the sum of squares is bounded by
    the sampled token's own; the constant horizon.
    """
    return Algorithm(credit=OptimalTokenCredit(), loss=on_policy(run))


def rae(run: RunConfig) -> Algorithm:
    """RAE: reward minus a running baseline per role, for self-play; no group needed.

    ``A = R - b``, then ``b <- .95 b + .05 R``, b = 0 at first; one update per batch.
    Source: SPIRAL, arXiv 2506.24119. Ours: one baseline for all tasks; where tasks name their role, ``credit.keys=["role"]``;
    the sum is over a constant horizon.
    """
    return Algorithm(credit=RoleBaselineCredit(keys=()), loss=on_policy(run))
