"""Presets that imitate: a teacher, one's own verified attempts, or preferred answers."""

from __future__ import annotations

from phronesis.credit import GroupMean, NoBaseline, OPDCredit, TrajectoryCredit, VerifiedCredit
from phronesis.errors import ConfigError
from phronesis.losses import (
    GKDLoss,
    LossConfig,
    ReinforceLoss,
    SDPOLoss,
    StepAPOLoss,
    SupervisedLoss,
    TokenMean,
    TokenTIS,
)
from phronesis.train.config import RunConfig
from phronesis.train.lessons.distil import DistilLesson
from phronesis.train.lessons.pairs import PairsLesson
from phronesis.train.lessons.rationalise import RationaliseLesson
from phronesis.train.lessons.rlag import RLAGLesson
from phronesis.train.lessons.self_distil import SelfDistilLesson
from phronesis.train.presets.algorithm import PASSES, Algorithm, per_token

ROUND_PASSES = 8
"""Passes over the verified attempts of a round of STaR; ours."""
_COMPARED = TrajectoryCredit(baseline=GroupMean())
"""Says which groups have a signal; nothing learns from it."""
_UNREAD = TrajectoryCredit(baseline=NoBaseline())
"""Nothing learns from it, and a lone attempt has it."""


def opd(run: RunConfig, *, teacher: str = "") -> Algorithm:
    """On-policy distillation: every sampled token is as good as a teacher finds it likelier than the student did.

    ``A_t = log teacher - log pi``, no reward-to-go; ``L = -token mean of A log pi``, one update per batch. Rewards are not
    read. Source: slime (coefficient 1), after arXiv 2306.13649. Ours: one episode per task.

    Args:
        run: the run.
        teacher: checkpoint directory with the student's vocabulary.

    Raises:
        ConfigError: no teacher is named.
    """
    if not teacher:
        raise ConfigError(
            "algorithm 'opd' needs a teacher: set credit.teacher=FOLDER, a checkpoint with the student's vocabulary, e.g. "
            "runs/other/checkpoints/step-00000040"
        )
    return Algorithm(credit=OPDCredit(teacher=teacher, coef=1.0), loss=per_token(ReinforceLoss()), group_size=1)


def raft(run: RunConfig) -> Algorithm:
    """RAFT: cross-entropy on verified attempts, each once and at most four per task; failures are not learned from.

    ``L = -token mean of log pi`` over attempts of reward 1 and more: REINFORCE with advantages 1 and 0 and no baseline.
    Source: arXiv 2304.06767. Ours: the cap of 4, one pass. ``credit.success`` says what counts as verified.
    """
    return Algorithm(credit=VerifiedCredit(success=1.0, cap=4), loss=per_token(SupervisedLoss()))


def star(run: RunConfig) -> Algorithm:
    """STaR: rounds in which the newest policy tries, failed tasks again with the answer as a hint, and the base model learns.

    ``L = -token mean of log pi`` over attempts of reward 1 and more, from the base model's weights with a fresh optimiser; a
    training step is a round. Tasks no attempt solved are tried once more with their answer in the opening (rationalisation),
    and what is verified then is learned without it. Source: arXiv 2203.14465 (40 updates in the first round, a fifth more each
    round). Ours: 8 passes per round, at most 4 attempts per task, the hint's words. Rounds should be large: raise ``groups``
    and ``learner.minibatches``. Where an environment tells no answer: ``lesson.answer=KEY`` or ``lesson=none``.
    """
    return Algorithm(
        credit=VerifiedCredit(success=1.0, cap=4),
        loss=per_token(SupervisedLoss()),
        passes=ROUND_PASSES,
        restart=True,
        lesson=RationaliseLesson(),
    )


def gkd(run: RunConfig, *, teacher: str = "") -> Algorithm:
    """GKD: a frozen teacher's whole distributions on what the student plays, by generalised Jensen-Shannon divergence.

    ``L = token mean of .5 KL(T || M) + .5 KL(S || M)``, M their mean; rewards are not read. Source: arXiv 2306.13649 (half of
    the data the student's own, beta .5). Here all of it, unless ``lesson.traces=1`` adds as many demonstrations of the
    environment. Ours: one episode per task, all ids compared.

    Args:
        run: the run.
        teacher: checkpoint directory with the student's vocabulary.

    Raises:
        ConfigError: no teacher is named.
    """
    if not teacher:
        raise ConfigError(
            "algorithm 'gkd' needs a teacher: set lesson.teacher=FOLDER, a checkpoint with the student's vocabulary, e.g. "
            "runs/other/checkpoints/step-00000040"
        )
    return Algorithm(credit=_UNREAD, loss=per_token(GKDLoss()), group_size=1, lesson=DistilLesson(teacher=teacher))


def sdpo(run: RunConfig) -> Algorithm:
    """SDPO: the same policy, shown a successful sibling or feedback, teaches the policy that was not; no other teacher.

    ``L = token mean of min(r, 2) JSD(S, T)``, T a running average of the weights that reads the student's tokens behind the
    hint, over the 100 likeliest ids and all others together. Source: arXiv 2601.20802 (alpha .5, average .05, groups of 8,
    learning rate 1e-5). Ours: the hints' words, whose likeliest ids are kept.
    """
    loss = LossConfig(objective=SDPOLoss(), aggregation=TokenMean(), corrections=(TokenTIS(cap=2.0, of="theta"),))
    return Algorithm(credit=_UNREAD, loss=loss, average=0.05, lesson=SelfDistilLesson())


def rlag(run: RunConfig) -> Algorithm:
    """RLAG: a task's knowledge and the answer given with it, against the answer given without, all behind the plain prompt.

    ``L = -log sigma(.2 lp(knowledge) + .5 lp(with) - .5 lp(without) - 8)``, each the mean log-probability of a token.
    Source: arXiv 2509.20162. Ours: two passes a round instead of 15, one attempt each way. The knowledge is ``EnvSpec.hint`` or
    a fact of the task's payload (``lesson.answer=KEY``).
    """
    return Algorithm(credit=_UNREAD, loss=LossConfig(), passes=PASSES, group_size=1, lesson=RLAGLesson())


def dpo(run: RunConfig) -> Algorithm:
    """DPO: of a task's attempts the best against the worst, measured from the policy the run began with.

    ``L = -log sigma(.1 (log-ratio of the better - log-ratio of the worse))``, two passes over each step's pairs. Source: arXiv
    2305.18290 (beta .1). Ours: pairs of the newest policy's own attempts, round by round (online); pairs of a file or of a
    stored run are learned from with ``phronesis pairs``. `ipo_pref`, Step-DPO and Step-APO are settings of ``lesson``.
    """
    return Algorithm(credit=_COMPARED, loss=LossConfig(), passes=PASSES, lesson=PairsLesson())


def step_dpo(run: RunConfig) -> Algorithm:
    """Step-DPO: DPO on the first step in which a task's best and worst attempts differ, if both answer the same prompt.

    Source: arXiv 2406.18629. Ours: attempts of the newest policy instead of corrected ones, beta .1, two passes.
    """
    return Algorithm(credit=_COMPARED, loss=LossConfig(), passes=PASSES, lesson=PairsLesson(compare="first_step"))


def step_apo(run: RunConfig) -> Algorithm:
    """Step-APO: wherever a task's attempts part, the best step against the worst, with their values as margin.

    ``L = -log sigma(beta chosen - V_chosen - beta rejected + V_rejected)``, V the mean reward of the attempts that go through
    the step. Source: CPL, arXiv 2409.08642, which takes steps and values from a tree search. Ours: from attempts laid over one
    another, beta .1, two passes.
    """
    lesson = PairsLesson(objective=StepAPOLoss(), compare="steps")
    return Algorithm(credit=_COMPARED, loss=LossConfig(), passes=PASSES, lesson=lesson)
