"""Presets that are whole published recipes, and those over a critic."""

from __future__ import annotations

from phronesis.credit import ArCHerCredit, GAECredit, SAOCredit
from phronesis.losses import DISLoss, IcePop, LossConfig, PPOClipLoss, ReinforceLoss, SequenceMeanTokenMean
from phronesis.train.batching import BatchConfig
from phronesis.train.config import RunConfig
from phronesis.train.critic import CriticConfig, TwinConfig, sao_critic
from phronesis.train.presets.algorithm import PASSES, Algorithm, faster, per_token
from phronesis.train.presets.groups import MEAN, Z_SCORE


def ppo(run: RunConfig) -> Algorithm:
    """PPO: token advantages over a critic, whitened, under the clipped ratio.

    ``delta = r + V_next - V``, ``A = delta + .95 A_next`` over sampled tokens only, whitened over the step;
    ``L = -token mean of min(r A, clip(r, .8, 1.2) A)``; the critic learns ``max((v - R)^2, (v_c - R)^2) / 2`` with values
    clipped at .2. Source: arXiv 1707.06347 eq. 7, arXiv 1506.02438. Gamma 1 as usual for language. Ours: the critic's returns
    use lambda 1, it steps at the policy's learning rate with AdamW, two passes each.
    """
    return Algorithm(
        credit=GAECredit(gamma=1.0, lam=0.95, critic_lam=1.0, whiten=True),
        loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)),
        passes=PASSES,
        critic=CriticConfig(optimizer=faster(run.learner.optimizer, 1.0), epochs=PASSES, clip=0.2),
    )


def sao(run: RunConfig) -> Algorithm:
    """SAO: one episode per task, a critic instead of siblings, double-sided token weights on the sampler's log-probabilities.

    GAE over sampled tokens with lambda ``1 - 1 / (1.5 L)`` (critic: 1); ``L = -token mean of sg(f(r_d)) A log pi``, f(r) = r
    where .7 < r < 6, else 0. Source: arXiv 2607.07508: ten warm-up steps and two updates a step of the critic, attention
    frozen, five times the policy's learning rate, batch 128. Coding takes ``learner.loss.objective`` ``eps_low=.8 eps_high=3``.
    Ours: as many episodes a step as the run had, gamma 1, two passes of the policy, value pre-training by the warm-up alone.
    """
    return Algorithm(
        credit=SAOCredit(alpha=1.5),
        loss=per_token(DISLoss(eps_low=0.3, eps_high=5.0)),
        passes=PASSES,
        old="sampler",
        group_size=1,
        critic=sao_critic(lr=5.0 * run.learner.optimizer.peak),
    )


def archer(run: RunConfig) -> Algorithm:
    """ArCHer: an off-policy critic over whole utterances, whose advantage every token of the utterance gets.

    ``Q <- r + .9 (1 - done) V_target(s')`` and ``V <- Q_target(s, a)``, twins of both, targets averaged at rate .1;
    ``A = min(Q1, Q2) - min(V1, V2)``; ``L = -token mean of A log pi``. Source: arXiv 2402.19446: three epochs of the critic a
    step, before the policy. Ours: AdamW at the policy's learning rate for both (published: 1e-3 and 1e-5), four steps of
    warm-up, 1024 episodes to learn from again, 64 of them in every pass.
    """
    return Algorithm(
        credit=ArCHerCredit(gamma=0.9),
        loss=per_token(ReinforceLoss()),
        critic=CriticConfig(
            optimizer=faster(run.learner.optimizer, 1.0), epochs=3, clip=None, warmup=4, twins=TwinConfig(polyak=0.1)
        ),
    )


def glm5_reasoning(run: RunConfig) -> Algorithm:
    """GLM-5 reasoning: GRPO with IcePop, group 32, no divergence, one update per batch.

    ``A = (R - mean) / std``; ``L = -mean over episodes of token mean of pop(rho) min(r A, clip(r, .8, 1.28) A)``, pop(rho) =
    rho in [1/2, 2], else 0; popped tokens stay in the denominator. Source: arXiv 2602.15763: beta 2, eps .2 and .28, group 32,
    batches of 32 tasks, fully on-policy, so that r is 1 and clipping idle: what acts is the weight rho. The number of tasks a
    step stays the run's (ours).
    """
    loss = LossConfig(
        objective=PPOClipLoss(eps_low=0.2, eps_high=0.28), aggregation=SequenceMeanTokenMean(), corrections=(IcePop(beta=2.0),)
    )
    return Algorithm(credit=Z_SCORE, loss=loss, group_size=32)


def glm5_agentic(run: RunConfig) -> Algorithm:
    """GLM-5 agentic: mean baseline, double-sided weights on the sampler's log-probabilities, optimiser reset, group repair.

    ``A = R - mean``; ``L = -token mean of sg(f(r_d)) A log pi``, f(r) = r where .7 < r < 6, else 0. The optimiser forgets its
    state whenever the sampler gets new weights, here every step; faulty episodes are replaced by copies of valid siblings,
    groups with half or more missing left out. Source: arXiv 2602.15763, which publishes neither the bounds (SAO's here, arXiv
    2607.07508), nor updates per refresh (ours: 2 passes), nor the staleness bound (none is needed where play and learning
    alternate).
    """
    return Algorithm(
        credit=MEAN,
        loss=per_token(DISLoss(eps_low=0.3, eps_high=5.0)),
        passes=PASSES,
        old="sampler",
        reset=True,
        batch=BatchConfig(repair=True),
    )
