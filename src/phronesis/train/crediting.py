"""One step's credit: the rule with everything it may ask for, and the critic that learns beside it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from phronesis.credit.critics.valued import needs_critic
from phronesis.credit.rule import CreditRule, NeedsUtterances, NeedsValues, Settles, members
from phronesis.errors import AllFaulted, ConfigError
from phronesis.records import Credit, EpisodeGroup
from phronesis.rollout.rerun import Reruns
from phronesis.train.critic import CriticConfig, CriticMetrics, withheld
from phronesis.train.trainable import check_trainable
from phronesis.train.twins import AnyCritic, TwinCritic

log = logging.getLogger(__name__)


class Credited(NamedTuple):
    """A step's credit and what it took."""

    credits: list[Credit]
    """One per group, in order."""
    metrics: dict[str, float]
    """Of re-runs and the critic; empty where there were none."""
    warming: bool
    """True while the critic warms up: no episode has credit."""


async def assign(rule: CreditRule, groups: Sequence[EpisodeGroup], reruns: Reruns, critic: AnyCritic | None) -> Credited:
    """Assigns credit to all groups at once, so that their re-runs share the engine; then the critic learns.

    Args:
        rule: who earned the reward.
        groups: all groups of the step.
        reruns: for rules that play on from a prefix.
        critic: for rules that need values; None when the run has none.

    Raises:
        ConfigError: see `check_critic`.
        Untrainable: an episode of a policy that takes messages.
    """
    check_critic(rule, critic)
    check_trainable(groups)
    if critic is None:
        return Credited(await _settled(rule, groups, reruns), reruns.metrics(), False)
    ready = critic.ready
    if isinstance(critic, TwinCritic):
        assert isinstance(rule, NeedsUtterances)
        learned = critic.learn(groups, rule)  # before it judges, as published
        credits = await _settled(rule.with_utterances(critic.look(groups)), groups, reruns)
    else:
        assert isinstance(rule, NeedsValues)
        look = critic.look(groups)
        credits = await _settled(rule.with_values(look), groups, reruns)
        learned = critic.learn(look, rule.targets)
    metrics = reruns.metrics() | critic_metrics(learned, warming=not ready)
    return Credited(credits if ready else [withheld(g) for g in groups], metrics, not ready)


async def _settled(rule: CreditRule, groups: Sequence[EpisodeGroup], reruns: Reruns) -> list[Credit]:
    credits = list(await asyncio.gather(*(_assigned(rule, group, reruns) for group in groups)))
    if isinstance(rule, Settles):  # statistics over the whole step
        settled = rule.settle(groups, credits)
        return [replace(new, counts={**old.counts, **new.counts}) for old, new in zip(credits, settled, strict=True)]
    return credits


async def _assigned(rule: CreditRule, group: EpisodeGroup, reruns: Reruns) -> Credit:
    """One group's credit; none, with the reason ``rerun_fault``, where no continuation of a turn came to an end."""
    try:
        return await rule.assign(group, reruns)
    except AllFaulted as error:
        log.warning("group %r is left out: %s", group.id, error)
        reasons = tuple(reason or "rerun_fault" for reason in members(group, compared=False).reasons)
        return Credit(group=group.id, values=(None,) * len(reasons), reasons=reasons)


def check_critic(rule: CreditRule, critic: CriticConfig | AnyCritic | None) -> None:
    """Refuses a critic no rule asks, and a rule that asks a critic there is not, or one of another kind.

    Raises:
        ConfigError: any of these.
    """
    name = type(rule).__name__
    if critic is None and isinstance(rule, NeedsValues | NeedsUtterances):
        raise needs_critic(name)
    if critic is None:
        return
    twins = critic.twins if isinstance(critic, CriticConfig) else critic.config.twins
    if twins is None and isinstance(rule, NeedsUtterances):
        raise ConfigError(
            f'credit {name!r} asks a critic of whole utterances; set critic.twins = {{}} and critic.clip = "none", or take '
            'algorithm = "archer"'
        )
    if twins is not None and not isinstance(rule, NeedsUtterances):
        raise ConfigError(
            f'critic.twins judge whole utterances, and credit {name!r} does not ask for that; set critic.twins = "none", or '
            'credit.type = "archer"'
        )
    if not isinstance(rule, NeedsValues | NeedsUtterances):
        raise ConfigError(
            f"the run has a critic, but credit {name!r} never asks for values; remove the [critic] section, or choose a rule "
            "over values: gae, turn_gae, poad, sao or archer"
        )


def critic_metrics(learned: CriticMetrics | None, *, warming: bool) -> dict[str, float]:
    """A critic's numbers under their metric keys; absent where nothing was learned."""
    found = {"critic/warmup": float(warming)}
    if learned is None:
        return found
    found |= {
        "critic/loss": learned.loss,
        "critic/grad_norm": learned.grad_norm,
        "critic/lr": learned.lr,
        "critic/value_mean": learned.value_mean,
        "critic/target_mean": learned.target_mean,
        "critic/clip_share": learned.clip_share,
    }
    if learned.explained_variance is not None:
        found["critic/explained_variance"] = learned.explained_variance
    return found
