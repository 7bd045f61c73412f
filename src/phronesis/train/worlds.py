"""What the sources of a run make together: one environment, one order of tasks, one credit rule, the gates of play.

A run with one environment is the plain case, and what it gets here is what it names.
"""

from __future__ import annotations

from dataclasses import replace

from phronesis import credit
from phronesis.config.importing import import_made
from phronesis.credit.routed import RoutedCredit
from phronesis.credit.rule import CreditRule, NeedsUtterances, NeedsValues
from phronesis.data.mixture import Mixture, Shares
from phronesis.env import EnvSpec, Rubric, TaskSource
from phronesis.envs import registry
from phronesis.envs.demonstrations import imperfect, with_demonstrations
from phronesis.envs.mixture import mix
from phronesis.envs.trouble import troubled
from phronesis.errors import ConfigError
from phronesis.rollout.breaker import Breakers
from phronesis.rollout.gates import Gates
from phronesis.train.config import RunConfig
from phronesis.train.sources import SourceConfig


def world(config: RunConfig) -> EnvSpec:
    """The environment of a run; a mixture where it has several sources.

    Raises:
        UnknownName: no environment of a name.
        ConfigError: one cannot be made, or its rubric cannot be found.
    """
    if not config.sources:
        return shown(config, registry.get(config.env.name, config.env.args))
    return mix({name: shown(config, _judged(source)) for name, source in config.sources.items()})


def shown(config: RunConfig, spec: EnvSpec) -> EnvSpec:
    """The environment with demonstrations by `prime.expertise`, where it has none and they are asked for."""
    if spec.demonstrate is not None or config.prime is None or config.prime.expertise is None:
        return spec
    return with_demonstrations(spec, imperfect(config.prime.expertise))


def training(config: RunConfig, spec: EnvSpec) -> EnvSpec:
    """What is played in training: the sources with the trouble they are to be in. Evaluation plays them without."""
    slow = {n: source.trouble for n, source in config.sources.items() if source.trouble is not None}
    if not slow:
        return spec
    return replace(spec, parts={n: troubled(part, slow[n]) if n in slow else part for n, part in spec.parts.items()})


def tasks(config: RunConfig, spec: EnvSpec, breakers: Breakers | None = None) -> TaskSource:
    """The order in which training tasks come.

    Args:
        config: the run's settings.
        spec: what `world` made of them, or the environment at hand.
        breakers: say which sources may be drawn from now; None draws from all.

    Raises:
        ConfigError: an order the environment does not allow.
    """
    if not config.sources:
        return config.tasks.source(spec, "train", config.seed)
    orders = {name: source.tasks.source(spec.parts[name], "train", config.seed) for name, source in config.sources.items()}
    shares = Shares({name: source.share for name, source in config.sources.items()})
    return Mixture(orders, shares) if breakers is None else Mixture(orders, shares, breakers.allows, breakers.probes)


def rule(config: RunConfig) -> CreditRule:
    """The credit rule of a run, with those of its sources.

    Raises:
        ConfigError: a rule cannot be built, or a source's own rule asks a critic.
    """
    rest = credit.build(config.credit)
    own = {name: credit.build(source.credit) for name, source in config.sources.items() if source.credit is not None}
    for name, found in own.items():
        if isinstance(found, NeedsValues | NeedsUtterances):
            raise ConfigError(
                f"sources.{name}.credit asks a critic, which is one for the whole run; set credit, not the source's"
            )
    if not own:
        return rest
    if isinstance(rest, NeedsValues | NeedsUtterances):
        raise ConfigError(
            f"credit asks a critic about every group, and {', '.join(own)} would have rules without one; leave out their credit"
        )
    return RoutedCredit(rest, own)


def gates(config: RunConfig) -> Gates:
    """How many episodes may be in flight, in all and of each source."""
    return Gates(config.concurrency, {n: s.concurrency for n, s in config.sources.items() if s.concurrency is not None})


def _judged(source: SourceConfig) -> EnvSpec:
    """The environment of a source, with the rubric it names."""
    spec = registry.get(source.env.name, source.env.args)
    if source.rubric is None:
        return spec
    rubric = import_made(source.rubric, Rubric, "a rubric: it has no async score(group)")
    # what the environment promises is said of its own rubric
    return replace(spec, rubric=rubric, oracle_reward=None, null_reward=None, chance_reward=None)
