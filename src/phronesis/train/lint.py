"""Looks a run's settings over before anything is played: what cannot be right is refused, what is seldom meant is pointed out.

Every rule is a pure function of the config that returns what it saw, or None. A rule knows nothing of results: it fires
where the maths of a setting is wrong, idle or not what its name suggests. `phronesis doctor config` shows the findings, a run
records them, and `job.check` refuses what a rule refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from msgspec import Struct

from phronesis.errors import ConfigError
from phronesis.train.config import RunConfig
from phronesis.train.lint_rules import batching, credit, forks, lessons, ratios, sampling

Severity = Literal["refuse", "warn"]
"""refuse: the run does not start. warn: it starts, and its folder and report say so."""


class Finding(Struct, frozen=True, kw_only=True):
    """What a rule saw in a config."""

    rule: str
    """Id of the rule."""
    severity: Severity
    """What happens."""
    reason: str
    """What is wrong, with the values at fault."""
    fix: str
    """What to change."""

    @property
    def line(self) -> str:
        """On one line."""
        return f"{self.rule}: {self.reason}. {self.fix}"


class Rule(NamedTuple):
    """One thing to look for."""

    id: str
    """Stable name."""
    severity: Severity
    """What happens when it fires."""
    fires: str
    """When, in words."""
    fix: str
    """What to change."""
    check: Callable[[RunConfig], str | None]
    """The reason, or None."""


RULES: tuple[Rule, ...] = (
    Rule(
        "clipping-inert",
        "warn",
        'a ratio of new to old policy, one update per batch, `old = "learner"`',
        'Set learner.epochs or learner.minibatches above 1, or say learner.loss.objective.type="reinforce" (for decoupled_ppo '
        "with the correction tis_token, since its weight is not idle).",
        ratios.clipping_inert,
    ),
    Rule(
        "unclipped-stale",
        "warn",
        "REINFORCE without a ratio, several updates per batch or batches of older weights",
        "Set learner.epochs=1 and learner.minibatches=1 (and asynchrony.staleness=0), or choose an objective with a ratio, "
        'e.g. ppo_clip or dis, or add the correction tis_token with of="theta".',
        ratios.unclipped_stale,
    ),
    Rule(
        "kl-cov-unbound",
        "warn",
        "KL-Cov, which binds few tokens and clips none, several updates per batch",
        'Set learner.epochs=1 and learner.minibatches=1, or take learner.loss.objective.type="clip_cov", which clips like PPO.',
        ratios.kl_cov_unbound,
    ),
    Rule(
        "opsm-inert",
        "warn",
        'the correction opsm against `old`, one update per batch, `old = "learner"`',
        'Set of="infer" in opsm, which compares with the sampler, or make several updates per batch.',
        ratios.opsm_inert,
    ),
    Rule(
        "normalise-inert",
        "warn",
        "normalised weights where no correction gives any",
        "Leave learner.loss.normalise_weights out, or add a correction that weighs, e.g. tis_token.",
        ratios.normalise_inert,
    ),
    Rule(
        "anchor-drifts",
        "warn",
        "the ratio refers to recomputed log-probabilities that may be far from the sampler's, and nothing corrects it",
        'Add a correction, e.g. icepop or tis_token, take learner.old="sampler", or keep learner.precision="fp32" and a '
        "tight learner.mismatch_error.",
        ratios.anchor_drifts,
    ),
    Rule(
        "double-weight",
        "refuse",
        "an importance weight on top of a ratio that already contains it",
        "Leave the correction out, or weigh what the ratio lacks: old over sampler on a ratio of theta to old.",
        ratios.double_weight,
    ),
    Rule(
        "correction-inert",
        "warn",
        "a correction of old over sampler where the learner takes the sampler's log-probabilities for old",
        'Set learner.old="learner", or leave the correction out.',
        ratios.correction_inert,
    ),
    Rule(
        "sapo-decoupled",
        "refuse",
        "SAPO's gate under a weight of old over sampler (the decoupled loss)",
        "Leave the weight out, or use decoupled_ppo.",
        ratios.sapo_decoupled,
    ),
    Rule(
        "sequence-product",
        "warn",
        "a product of ratios over episodes that may have more than 256 tokens",
        "Use weights per token (tis_token, mis, icepop) or the geometric mean (geo_reject with veto, gspo), or lower limits.",
        ratios.sequence_product,
    ),
    Rule(
        "kl-reward-lost",
        "refuse",
        "a divergence in the reward under an objective that reads no reward, or reads a teacher out of it",
        "Set learner.loss.kl.type=loss, or choose a policy-gradient objective.",
        ratios.kl_reward_lost,
    ),
    Rule(
        "credit-unplayed",
        "warn",
        "a credit rule for episodes that the run does not play (forced routes, branches, several attempts per plan)",
        "Set the player of that name, or play such episodes with your own agent; otherwise it is no more than its baseline.",
        credit.unplayed,
    ),
    Rule(
        "branches-unread",
        "warn",
        "a player that branches or forces routes, and a credit rule that does not know what to make of it",
        'Set credit.type to the rule of the player (arpo or tree; earl), or player.type = "alone".',
        credit.branches_unread,
    ),
    Rule(
        "lesson-forks",
        "refuse",
        "a player that branches or forces routes, and a lesson that takes each of its episodes for one free attempt",
        'Set player.type="alone", or lesson=none and the credit of the player; players tree and arpo also go with '
        'lesson.type="pairs" and lesson.compare="steps".',
        forks.lesson_forks,
    ),
    Rule(
        "kl-k3",
        "warn",
        "k3 as a term of the loss (k1 cannot be chosen there at all: its gradient is 0 in expectation)",
        'Set learner.loss.kl.estimator="k3plus" (or k2, or unbiased), or put the divergence into the reward.',
        ratios.kl_k3,
    ),
    Rule(
        "kl-stale",
        "warn",
        "k2 or k3plus as a term of the loss, several updates per batch",
        'Set learner.loss.kl.estimator="unbiased", which weighs by theta over old, or make one update per batch.',
        ratios.kl_stale,
    ),
    Rule(
        "truncated-sampling",
        "refuse",
        "top_p, top_k or min_p in training; which ids were left out is not replayed",
        "Set sampling.top_p=1, top_k=0, min_p=0; to explore less, lower sampling.temperature.",
        sampling.truncated,
    ),
    Rule(
        "temperature",
        "warn",
        "training samples at another temperature than the 1 of evaluation",
        "Set sampling.temperature=1, or evaluate at that temperature too: phronesis eval RUN --temperature T.",
        sampling.temperature,
    ),
    Rule(
        "lone-group",
        "refuse",
        "group_size 1, or one forked episode, under credit that compares episodes of a group",
        "Set group_size to 2 or more, or choose credit that needs no siblings: reinforce_pp, remax, rae, sao.",
        credit.lone_group,
    ),
    Rule(
        "critic-missing",
        "refuse",
        "credit over values without a critic",
        "Add a [critic] section (all its fields have defaults).",
        credit.critic_missing,
    ),
    Rule(
        "critic-idle",
        "refuse",
        "a critic that the credit rule never asks",
        "Remove the [critic] section, or choose credit gae, turn_gae, poad, sao or archer.",
        credit.critic_idle,
    ),
    Rule(
        "scaled-shaping",
        "warn",
        "shaped rewards, or returns of turns, divided by a deviation",
        'Take a baseline that only centres: type="dr_grpo" or "rloo".',
        credit.scaled_shaping,
    ),
    Rule(
        "maxrl-negative",
        "warn",
        "MaxRL over returns that a rule makes negative; it is defined for returns of at least 0",
        'Take a baseline that only centres: type="dr_grpo" or "rloo"; credit/mean_not_positive counts what it gives up.',
        credit.maxrl_negative,
    ),
    Rule(
        "baseline-twice",
        "warn",
        "VCPO's baseline on credit that is compared with something already, or where nothing reads an advantage",
        'Set credit.baseline.type="none" (and batch.drop_silent=false), or learner.baseline="credit".',
        credit.baseline_twice,
    ),
    Rule(
        "teacher-unread",
        "refuse",
        "a distillation objective without credit opd at coefficient 1, from which it reads the teacher",
        'Set credit.type="opd" with credit.teacher and credit.coef=1.',
        credit.teacher_unread,
    ),
    Rule(
        "learns-from-failures",
        "refuse",
        "a supervised objective, which reads no advantage, on episodes nobody verified",
        'Set credit.type="verified", or choose an objective that reads advantages.',
        credit.learns_from_failures,
    ),
    Rule(
        "step-grows-with-length",
        "warn",
        "a loss that grows with the length of episodes, or a horizon far from it",
        'Set aggregation.type="constant_norm" with a horizon near the most tokens an episode may have, or expect gradients '
        "that max_grad_norm cuts.",
        batching.step_grows,
    ),
    Rule(
        "sequence-objective",
        "warn",
        "an objective of whole sequences under another aggregation than it is defined for",
        'Set learner.loss.aggregation.type="sequence_mean_token_mean".',
        batching.sequence_objective,
    ),
    Rule(
        "silent-dropped",
        "warn",
        "a term that acts on all tokens, while episodes without credit are left out",
        "Set batch.drop_silent=false.",
        batching.silent_dropped,
    ),
    Rule(
        "denominator-moves",
        "warn",
        "the share of groups with signal decides how much a token weighs",
        "Take aggregation constant_norm or sequence_mean_token_mean with dynamic sampling, and leave batch.count_silent=true.",
        batching.denominator_moves,
    ),
    Rule(
        "observations-unheard",
        "refuse",
        "a weight on observed tokens that the batch does not hold",
        "Set batch.observations=true.",
        batching.observations_unheard,
    ),
    Rule(
        "dynamic-blind",
        "warn",
        "dynamic sampling looks at rewards, while the credit comes from elsewhere",
        'Set dynamic="none".',
        batching.dynamic_blind,
    ),
    Rule(
        "loss-unread",
        "warn",
        "a loss beside a lesson that has one of its own",
        "Leave learner.loss at its defaults, set the lesson's objective, or set lesson=none.",
        lessons.loss_unread,
    ),
    Rule(
        "lesson-objective",
        "refuse",
        "a lesson and an objective that do not go together",
        'Lessons distil and self_distil go with learner.loss.objective.type="gkd" or "sdpo", rationalise with "supervised" or '
        '"dft".',
        lessons.lesson_objective,
    ),
    Rule(
        "hints-alone",
        "refuse",
        "self-distillation from siblings in groups of one",
        "Set group_size to 2 or more, or give lesson.feedback.",
        lessons.hints_alone,
    ),
    Rule(
        "pairs-alone",
        "refuse",
        "pairs from groups of one",
        "Set group_size to 2 or more.",
        lessons.pairs_alone,
    ),
    Rule(
        "credit-unread",
        "refuse",
        "credit that costs play, a critic or a teacher, under a lesson that reads none",
        'Set credit.type="trajectory" and remove the [critic] section, or set lesson=none.',
        lessons.credit_unread,
    ),
    Rule(
        "step-size-unsampled",
        "refuse",
        "VCPO's step size under a lesson whose texts come without the sampler's log-probabilities",
        'Set learner.step_size="scheduled".',
        lessons.step_size_unsampled,
    ),
    Rule(
        "learner-unread",
        "warn",
        "settings of the learner or the batch that a lesson with a loss of its own does not read",
        "Leave them at their defaults.",
        lessons.learner_unread,
    ),
    Rule(
        "distil-stale",
        "warn",
        "distillation from each batch of attempts in several updates, without a weight",
        'Set learner.epochs=1 and learner.minibatches=1, or add the correction tis_token with of="theta", as sdpo has it.',
        lessons.distil_stale,
    ),
    Rule(
        "rlag-attempts",
        "warn",
        "more than one attempt per task under a lesson that learns from the first",
        "Set group_size=1, and groups that much higher.",
        lessons.rlag_attempts,
    ),
)
"""All rules, in the order they are reported."""


def lint(config: RunConfig) -> list[Finding]:
    """What the rules find in a run's settings, in the order of `RULES`; a run that trains nothing has nothing to find."""
    if not config.steps:
        return []
    rules = [r for r in RULES if r.id not in lessons.unread(config)]
    seen = [(rule, rule.check(config)) for rule in rules]
    return [Finding(rule=r.id, severity=r.severity, reason=why, fix=r.fix) for r, why in seen if why is not None]


def refuse(findings: Iterable[Finding]) -> None:
    """Raises ConfigError with the findings that do not let a run start, if there are any."""
    lines = [f.line for f in findings if f.severity == "refuse"]
    if lines:
        raise ConfigError("; ".join(lines))


def markdown() -> str:
    """The rules as a Markdown table, which the documentation holds."""
    head = ["| rule | what happens | when | what to change |", "|---|---|---|---|"]
    return "\n".join([*head, *(f"| `{r.id}` | {r.severity} | {r.fires} | {r.fix} |" for r in RULES)])
