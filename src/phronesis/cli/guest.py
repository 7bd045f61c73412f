"""A policy behind an endpoint, ready to play: somebody else's weights, our environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_data
from pathlib import Path

from msgspec.structs import replace

from phronesis.cli.output import warn
from phronesis.cli.player import stored
from phronesis.config import load
from phronesis.engine.endpoint import Endpoint, EndpointConfig
from phronesis.engine.endpoints import connect, parse
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.reason.react import ReAct
from phronesis.records import Episode, Usage, total
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.messages import message_stage
from phronesis.rollout.play import Stage
from phronesis.train.config import RunConfig
from phronesis.train.worlds import world

PREFIX = "endpoint."
"""Begins the settings that are the endpoint's."""


@dataclass(frozen=True, kw_only=True)
class Guest:
    """An endpoint with everything an episode needs."""

    config: RunConfig
    """Environment, limits and seed; the rest of it does not matter."""
    spec: EnvSpec
    """What is played."""
    policy: Endpoint
    """Who plays."""

    def stage(self, sampling: Sampling) -> Stage:
        """Everything an episode needs besides its task and seed."""
        own = {name: source.limits for name, source in self.config.sources.items() if source.limits is not None}
        stage = message_stage(self.spec, self.policy, ReAct(), limits=self.config.limits, sampling=sampling)
        return replace_data(stage, own_limits=own)


def endpoint(source: str) -> EndpointConfig | None:
    """The endpoint that ``FORMAT:MODEL@URL`` or a TOML file names; None for anything else."""
    return load(EndpointConfig, [Path(source)]) if source.endswith(".toml") else parse(source)


def invite(named: EndpointConfig, changes: Sequence[str], like: Path | None) -> Guest:
    """The guest of an endpoint.

    Args:
        named: the endpoint.
        changes: ``path=value``; paths that begin with ``endpoint.`` are the endpoint's, the others a run's.
        like: a run whose environment, limits and seed are taken; None takes the defaults.

    Raises:
        UserError: a setting that cannot work, or no key.
    """
    theirs = [change.removeprefix(PREFIX) for change in changes if change.startswith(PREFIX)]
    ours = [change for change in changes if not change.startswith(PREFIX)]
    base = RunConfig(name="endpoint") if like is None else _free(stored(like))
    config = load(RunConfig, overrides=ours, base=base)
    return Guest(config=config, spec=world(config), policy=connect(load(EndpointConfig, overrides=theirs, base=named)))


def refuse_strays(changes: Sequence[str], like: Path | None) -> None:
    """Raises ConfigError for settings that only an endpoint has."""
    stray = next((change for change in changes if change.startswith(PREFIX)), None)
    if stray is not None:
        raise ConfigError(f"{stray!r} is a setting of an endpoint; name one, like 'openai:MODEL@http://127.0.0.1:8000/v1'")
    if like is not None:
        raise ConfigError("--like is for endpoints; a run or a model has its own settings")


def spent(episodes: Sequence[Episode]) -> Usage | None:
    """What the endpoint says all turns of the episodes took, faulted episodes included; None for a policy of ids."""
    return total(usage for episode in episodes if (usage := episode.usage) is not None)


def render_spent(usage: Usage, guest: Guest, episodes: int) -> str:
    """What it cost, as one line."""
    counts, cached = guest.policy.client.counts, usage.cached_tokens / max(usage.input_tokens, 1)
    each = "" if usage.cost is None else f" ({money(usage.cost / max(episodes, 1))} per episode)"
    retries = ", ".join(f"{n} after {reason}" for reason, n in sorted(counts.retries.items()))
    tokens = f"tokens {usage.input_tokens:,} in ({cached:.0%} cached) and {usage.output_tokens:,} out"
    asked = f"requests {counts.attempts:,}" + (f", retried {retries}" if retries else "")
    return f"cost {money(usage.cost)}{each}, {tokens}, {asked}"


def money(amount: float | None) -> str:
    """An amount in the price table's currency, with enough digits to compare.

    >>> money(0.01234), money(12.5), money(None)
    ('0.01234', '12.50', 'unknown (no price in endpoint.prices)')
    """
    if amount is None:
        return "unknown (no price in endpoint.prices)"
    return f"{amount:.2f}" if amount >= 1 or amount == 0 else f"{amount:.4g}"


def _free(config: RunConfig) -> RunConfig:
    """A run's settings without limits on ids, which an endpoint keeps for itself."""
    own = {name: source.limits for name, source in config.sources.items() if source.limits is not None}
    if all(limits.context is None and limits.thought_tokens is None for limits in (config.limits, *own.values())):
        return config
    warn("limits.context and limits.thought_tokens of the run are left out: an endpoint that takes messages keeps its own")

    def free(limits: Limits) -> Limits:
        return replace(limits, context=None, thought_tokens=None)

    sources = {n: s if s.limits is None else replace(s, limits=free(s.limits)) for n, s in config.sources.items()}
    return replace(config, limits=free(config.limits), sources=sources)
