"""Presets that differ in the objective: what is done with a ratio that has moved. Credit is a baseline over the group."""

from __future__ import annotations

from phronesis.losses import (
    CISPOLoss,
    DecoupledPPOLoss,
    DISLoss,
    DPPOLoss,
    GMPOLoss,
    GPPOLoss,
    GSPOLoss,
    IcePop,
    LossConfig,
    LUSPOLoss,
    M2POLoss,
    PPOClipLoss,
    SAPOLoss,
    SequenceMeanTokenMean,
    VESPOLoss,
)
from phronesis.train.batching import BatchConfig
from phronesis.train.config import RunConfig
from phronesis.train.presets.algorithm import PASSES, Algorithm, per_sequence, per_token
from phronesis.train.presets.groups import MEAN, Z_SCORE


def gspo(run: RunConfig) -> Algorithm:
    """GSPO: one clipped ratio per episode, the geometric mean of its tokens' ratios.

    ``s = exp(mean log r)``; ``L = -mean over episodes of min(s A, clip(s, 1 - 3e-4, 1 + 4e-4) A)``, A z-scored.
    Source: arXiv 2507.18071 eq. 5 and 7. Ours: two passes (published: four mini-batches).
    """
    return Algorithm(credit=Z_SCORE, loss=per_sequence(GSPOLoss(eps_low=3e-4, eps_high=4e-4)), passes=PASSES)


def gmpo(run: RunConfig) -> Algorithm:
    """GMPO: the geometric mean of an episode's ratios, each clipped on its own in log space.

    ``L = -mean over episodes of A exp(mean clipped log r)``, log r at most .4 where A > 0, at least -.4 where A < 0.
    Source: arXiv 2507.20673. Ours: two passes.
    """
    return Algorithm(credit=Z_SCORE, loss=per_sequence(GMPOLoss(clip=0.4)), passes=PASSES)


def luspo(run: RunConfig) -> Algorithm:
    """LUSPO: GSPO times the episode's length, which removes GSPO's bias against long episodes.

    Source: arXiv 2602.05261. The loss grows with the episodes' length, and the gradient with it. Ours: two passes.
    """
    return Algorithm(credit=Z_SCORE, loss=per_sequence(LUSPOLoss(eps_low=3e-4, eps_high=4e-4)), passes=PASSES)


def cispo(run: RunConfig) -> Algorithm:
    """CISPO: REINFORCE weighted with the truncated ratio; every token keeps a gradient.

    ``L = -token mean of sg(min(r, 1.28)) A log pi``, A z-scored, no lower bound, no divergence.
    Source: MiniMax-M1, arXiv 2506.13585 eq. 4, which does not publish the cap; 1.28 is clip-higher's, ScaleRL takes 5.
    Ours: two passes.
    """
    return Algorithm(credit=Z_SCORE, loss=per_token(CISPOLoss(cap=1.28)), passes=PASSES)


def gppo(run: RunConfig) -> Algorithm:
    """GPPO: clipped PPO whose clipped tokens keep a gradient, with the bound as their coefficient.

    ``L = -token mean of min(r A, b r / sg(r) A)`` beyond a bound b of 1 - .2 or 1 + .28, A z-scored.
    Source: Klear-Reasoner, arXiv 2508.07629 (beta 1 = beta 2 = 1). Its dual clip (3, in recipes 10) opens again the hole that
    GPPO closes, and is left out (ours). Ours: two passes.
    """
    return Algorithm(credit=Z_SCORE, loss=per_token(GPPOLoss(eps_low=0.2, eps_high=0.28)), passes=PASSES)


def sapo(run: RunConfig) -> Algorithm:
    """SAPO: a smooth gate instead of a clip.

    ``L = -mean over episodes of token mean of A (4 / tau) sigma(tau (r - 1))``, tau 1 where A > 0, 1.05 elsewhere; A z-scored.
    Source: arXiv 2511.20347. Not to be combined with weights of old over sampler. Ours: two passes.
    """
    return Algorithm(credit=Z_SCORE, loss=per_sequence(SAPOLoss(tau_pos=1.0, tau_neg=1.05)), passes=PASSES)


def dis(run: RunConfig) -> Algorithm:
    """DIS: REINFORCE weighted with the ratio to the sampler's own log-probabilities, tokens outside an interval dropped.

    ``L = -token mean of sg(f(r_d)) A log pi``, f(r) = r where .7 < r < 6, else 0; A = R - mean.
    Source: GLM-5, arXiv 2602.15763; the bounds are SAO's, arXiv 2607.07508 (mathematics with tools), since GLM-5's are not
    published. Ours: two passes. Dropped tokens stay in the denominator.
    """
    return Algorithm(credit=MEAN, loss=per_token(DISLoss(eps_low=0.3, eps_high=5.0)), passes=PASSES, old="sampler")


def icepop(run: RunConfig) -> Algorithm:
    """IcePop: clipped PPO, each token weighted with old over sampler where that is inside [1/2, 2], else with 0.

    ``L = -mean over episodes of token mean of pop(rho) min(r A, clip(r) A)``, A z-scored, eps .2 and .28.
    Source: as in GLM-5, arXiv 2602.15763. Ours: two passes; see `glm5_reasoning` for the recipe.
    """
    loss = LossConfig(
        objective=PPOClipLoss(eps_low=0.2, eps_high=0.28), aggregation=SequenceMeanTokenMean(), corrections=(IcePop(beta=2.0),)
    )
    return Algorithm(credit=Z_SCORE, loss=loss, passes=PASSES)


def m2po(run: RunConfig) -> Algorithm:
    """M2PO: drop the tokens with the largest log-ratio until its second moment is at most .04; no clip otherwise.

    ``L = -token mean of keep r A``, A z-scored, r of theta over the sampler. Meant for very stale episodes.
    Source: arXiv 2510.01161. Ours: two passes.
    """
    return Algorithm(credit=Z_SCORE, loss=per_token(M2POLoss(tau=0.04)), passes=PASSES, old="sampler")


def decoupled_ppo(run: RunConfig) -> Algorithm:
    """Decoupled PPO: clipped around the policy at the start of the update, weighted with that over the sampler.

    ``L = -token mean of sg(old / infer) min(r A, clip(r, .8, 1.2) A)``, r = theta / old; A z-scored.
    Source: arXiv 2110.00641, AReaL, arXiv 2505.24298. In a synchronous run old over infer is 1 up to numerics. Ours: the
    z-score over the group, two passes.
    """
    return Algorithm(credit=Z_SCORE, loss=per_token(DecoupledPPOLoss(eps_low=0.2, eps_high=0.2)), passes=PASSES)


def dppo(run: RunConfig) -> Algorithm:
    """DPPO-TV: the plain surrogate; a token whose probability has moved by more than .2 in the harmful direction is dropped.

    ``L = -token mean of keep r_d A + 1e-3 (log r_d)^2``, r_d = theta / sampler; A = R - mean.
    Source: arXiv 2602.04879. The pull acts on all tokens, so silent episodes are kept. Ours: two passes.
    """
    loss = per_token(DPPOLoss(delta_low=0.2, delta_high=0.2, kappa=1e-3))
    return Algorithm(credit=MEAN, loss=loss, passes=PASSES, old="sampler", batch=BatchConfig(drop_silent=False))


def vespo(run: RunConfig) -> Algorithm:
    """VESPO: REINFORCE weighted with a smooth function of the product of an episode's ratios.

    ``L = -token mean of sg(W^k exp(lam (1 - W))) A log pi``, (k, lam) = (2, 3) where A >= 0, (3, 2) elsewhere; A z-scored.
    Source: arXiv 2602.10693. A product of ratios leaves any interval in long episodes. Ours: two passes.
    """
    return Algorithm(credit=Z_SCORE, loss=per_token(VESPOLoss()), passes=PASSES)
