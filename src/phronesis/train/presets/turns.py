"""Presets that ask which turn earned the reward: by turn rewards, equal states, playing on, trees or uncertainty."""

from __future__ import annotations

from phronesis.credit import (
    ARPOCredit,
    EARLCredit,
    EMPGCredit,
    GiGPOCredit,
    GroupMean,
    IGPOCredit,
    MTGRPOCredit,
    SPOChainCredit,
    TreeCredit,
    TurnReturnCredit,
    VinePPOCredit,
)
from phronesis.errors import ConfigError
from phronesis.losses import PPOClipLoss
from phronesis.reason.players.arpo import ARPOPlayer
from phronesis.reason.players.earl import EARLPlayer
from phronesis.reason.players.tree import TreePlayer
from phronesis.train.config import RunConfig
from phronesis.train.presets.algorithm import PASSES, Algorithm, clipped, per_token


def turn_returns(run: RunConfig) -> Algorithm:
    """Turn returns: a turn's discounted return against the same turn of its siblings.

    ``G_k = sum of .95^(j - k) r_j``, ``A_k = G_k - mean over the group's turns k``; clipped PPO, token mean.
    Source: formula [reinforce-rtg] by turn. Ours: gamma .95, eps .2, two passes.
    """
    credit = TurnReturnCredit(gamma=0.95, pool="turn", baseline=GroupMean())
    return Algorithm(credit=credit, loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)), passes=PASSES)


def mt_grpo(run: RunConfig) -> Algorithm:
    """MT-GRPO: outcome and turn rewards z-scored apart; tokens up to the first tool result get both, later ones the outcome.

    ``A = A_outcome + A_turn`` before, ``A_outcome`` after; std + 1e-4. Source: arXiv 2505.11821 (lambda 1).
    Ours: clipped PPO with eps .2 and sequence means, two passes, no divergence.
    """
    return Algorithm(credit=MTGRPOCredit(lam=1.0, eps=1e-4), loss=clipped(), passes=PASSES)


def gigpo(run: RunConfig) -> Algorithm:
    """GiGPO: the episode's advantage plus that of each turn among turns of the group in the same state.

    ``A = (R - mean) + omega (G_k - mean over turns in the same state)``, omega 1, gamma .95.
    Source: arXiv 2505.10978 (group 8; mode mean_norm). Needs an environment that reports states. Ours: clipped PPO with
    eps .2, sequence means, two passes, no divergence.
    """
    credit = GiGPOCredit(omega=1.0, gamma=0.95, episode=GroupMean(), step=GroupMean())
    return Algorithm(credit=credit, loss=clipped(), passes=PASSES)


def vineppo(run: RunConfig) -> Algorithm:
    """VinePPO: what a turn added to the mean reward of nine fresh continuations; no critic, unbiased values.

    ``A_k = r_k + V_{k+1} - V_k``, V the mean over continuations played from before turn k, 0 at the end.
    Source: arXiv 2410.01679 (K 9, gamma 1; its steps are lines, ours are turns). Ours: eps .2, token mean, two passes.
    Continuations are extra play, which metrics ``rerun/*`` count: about nine episodes per turn.
    """
    return Algorithm(credit=VinePPOCredit(rollouts=9), loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)), passes=PASSES)


def spo(run: RunConfig) -> Algorithm:
    """SPO-chain: segments of five uncertain tokens, cut anywhere; a segment's uncertain tokens get what it added to the value.

    ``A = V(end) - V(start)`` by continuations, the last segment ends in the reward; tokens of probability over .9 get 0.
    Source: arXiv 2505.23564. Ours: nine continuations as in VinePPO, eps .2, token mean, two passes.
    """
    credit = SPOChainCredit(every=5, below=0.9, rollouts=9, cut="token")
    return Algorithm(credit=credit, loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)), passes=PASSES)


def treerpo(run: RunConfig) -> Algorithm:
    """TreeRPO: attempts branch as a tree; a node is worth its children's mean, against its siblings.

    ``A = (V - mean over siblings) / std of the siblings``. Source: arXiv 2506.05183; its normaliser and widths are unverified.
    Ours: a node is a turn, two children each at the first three turns, so a group of 8; clipped PPO with eps .2, token mean,
    two passes. Needs an environment that is a function of its task and seed.
    """
    return Algorithm(
        credit=TreeCredit(against="siblings", scale=True),
        player=TreePlayer(widths=(2, 2, 2)),
        group_size=8,
        loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)),
        passes=PASSES,
    )


def arpo(run: RunConfig) -> Algorithm:
    """ARPO: branch where the world's answer made the policy unsure; branches share the credit of what they have in common.

    GRPO's advantages among all branches, the mean of its branches on a shared turn. Source: arXiv 2507.19849 (16 attempts, 8
    of them from the start, beam 2, branch where ``u - .2 dH <= .5``, dH over 20 tokens). Ours: the entropy of the whole
    distribution; any answer counts as a tool's; clipped PPO with eps .2, token mean, two passes. Needs an environment that is a
    function of its task and seed.
    """
    return Algorithm(
        credit=ARPOCredit(prefix="hard"),
        player=ARPOPlayer(initial=8, beam=2),
        group_size=16,
        loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)),
        passes=PASSES,
    )


def earl(run: RunConfig) -> Algorithm:
    """EARL: where all attempts failed, each is played again with a forced route and learns from the difference.

    ``A = R_forced - R`` on what follows the route; GRPO's advantage among free attempts. Source: arXiv 2510.07581 (4 attempts,
    places by ``softmax(log pi / 10)``, top-k 10, top-p .9, gains .9/.1; learning rate and KL .001 are not taken over). Ours:
    one place a turn; the text policy's tool calls or legal actions are the routes, no vocabulary is extended; clipped PPO with
    eps .2, token mean, two passes. Needs an environment that is a function of its task and seed.
    """
    return Algorithm(
        credit=EARLCredit(),
        player=EARLPlayer(),
        loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)),
        passes=PASSES,
    )


def empg(run: RunConfig) -> Algorithm:
    """EMPG: the episode's advantage, larger where the policy was sure, plus a bonus for leading to a step it is sure of.

    ``A_t = A g(H_t) + .1 f(H_{t+1})``, ``g = exp(-H) / mean exp(-H)``, ``f = exp(-H)``, H min-max scaled over the step.
    Source: arXiv 2509.09265 (k 1, k_f 1, zeta .1). Ours: a step is a turn; clipped PPO with eps .2, token mean, two passes.
    """
    return Algorithm(
        credit=EMPGCredit(k=1.0, k_f=1.0, zeta=0.1),
        loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)),
        passes=PASSES,
    )


def igpo(run: RunConfig, *, answer: str = "", metric: str = "", judge: str = "") -> Algorithm:
    """IGPO: a turn earns by how much it raised the probability of the right answer, the last one the reward.

    ``r_k = p_k - p_{k-1}``, reward-to-go with gamma 1, minus the mean of the same turn in the group, no spread.
    Source: arXiv 2510.14967 (group 16, at most 10 turns). Ours: by turn, not by token position; clipped PPO with eps .2,
    token mean, two passes.

    Args:
        run: the run.
        answer: payload key of the task that holds the right answer; the policy scores it at the side.
        metric: or the name under which the environment reports the probability.
        judge: or an import path of a function that knows it.

    Raises:
        ConfigError: not exactly one of the three is given.
    """
    if not (answer or metric or judge):
        raise ConfigError(
            "algorithm 'igpo' needs the right answer's probability: set credit.answer=KEY (a key of the task's payload), "
            "credit.metric=NAME (reported by the environment) or credit.judge=package.module:name"
        )
    credit = IGPOCredit(answer=answer, metric=metric, judge=judge)
    return Algorithm(credit=credit, loss=per_token(PPOClipLoss(eps_low=0.2, eps_high=0.2)), passes=PASSES)
