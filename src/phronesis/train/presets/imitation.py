"""Presets that imitate: a teacher, one's own verified attempts, or preferred answers."""

from __future__ import annotations

from phronesis.credit import GroupMean, OPDCredit, TrajectoryCredit, VerifiedCredit
from phronesis.errors import ConfigError
from phronesis.losses import LossConfig, ReinforceLoss, StepAPOLoss, SupervisedLoss
from phronesis.train.config import RunConfig
from phronesis.train.lessons.pairs import PairsLesson
from phronesis.train.presets.algorithm import PASSES, Algorithm, per_token

ROUND_PASSES = 8
"""Passes over the verified attempts of a round of STaR; ours."""
_COMPARED = TrajectoryCredit(baseline=GroupMean())
"""Says which groups have a signal; nothing learns from it."""


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
    """STaR: rounds in which the newest policy tries, and the base model learns its verified attempts anew.

    ``L = -token mean of log pi`` over attempts of reward 1 and more, from the base model's weights with a fresh optimiser; a
    training step is a round. Source: arXiv 2203.14465 (40 updates in the first round, a fifth more each round). Ours: 8 passes
    per round, at most 4 attempts per task, and no rationalisation, for which an environment would have to show the answer as a
    hint (`phronesis.data.rejection.without_hint`). Rounds should be large: raise ``groups`` and ``learner.minibatches``.
    """
    return Algorithm(
        credit=VerifiedCredit(success=1.0, cap=4), loss=per_token(SupervisedLoss()), passes=ROUND_PASSES, restart=True
    )


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
