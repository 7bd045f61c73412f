"""A stage for a policy that takes messages: everything an episode needs, with what speaks of ids refused at once."""

from __future__ import annotations

from phronesis.agent import Agent
from phronesis.chat.messages import MessageFormat
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.policy import Chats
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.play import Stage


def message_stage(
    spec: EnvSpec, policy: Chats, agent: Agent, *, limits: Limits | None = None, sampling: Sampling | None = None
) -> Stage:
    """Everything an episode of such a policy needs besides its task and seed.

    Args:
        spec: what is played.
        policy: who answers.
        agent: how its answers are spent; it must force no ids.
        limits: of an episode; tokens are counted as the endpoint counts them.
        sampling: how answers are sampled.

    Raises:
        ConfigError: a limit on ids, which only the endpoint itself can keep.
    """
    limits = limits or Limits()
    if limits.context is not None:
        raise ConfigError(f"limits.context {limits.context!r}: an endpoint that takes messages keeps its own; leave it out")
    if limits.thought_tokens is not None:
        raise ConfigError(
            f"limits.thought_tokens {limits.thought_tokens!r}: an endpoint that takes messages cannot be cut off in a thought; "
            "leave it out and set endpoint.effort"
        )
    return Stage(spec=spec, policy=policy, chat=MessageFormat(), agent=agent, limits=limits, sampling=sampling or Sampling())
