"""What one episode may use."""

from __future__ import annotations

from msgspec import Struct

from phronesis.errors import ConfigError


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one episode. Reaching one ends the episode with the matching `Stop`; it is not a fault."""

    max_turns: int = 16
    """Policy calls per episode, over all branches."""
    max_turn_tokens: int = 256
    """Tokens one completion may have."""
    max_tokens: int | None = None
    """Sampled tokens per episode; None means no limit."""
    context: int | None = None
    """Ids a prompt plus its completion may have; None takes the policy's own limit."""
    seconds: float | None = None
    """Wall-clock seconds per episode; None means no limit."""
    env_seconds: float = 30.0
    """Seconds one environment call may take before it counts as hung (an environment fault)."""
    policy_seconds: float = 600.0
    """Seconds one policy call may take before it counts as hung (an infrastructure fault)."""
    agent_seconds: float = 600.0
    """Seconds the agent may take over its own affairs, neither asking the policy nor the environment, before it counts as hung
    (an infrastructure fault)."""
    admit_seconds: float = 1800.0
    """Seconds to wait for a place at an environment that has few of them, before that is an environment fault. They are not
    among the episode's own `seconds`."""
    rubric_seconds: float = 120.0
    """Seconds the rubric may take to judge a group before it counts as hung (an environment fault)."""
    reply_chars: int = 20_000
    """Characters of one environment message that reach the policy; the rest is cut with a note."""
    thought_tokens: int | None = None
    """Tokens of one think block before it is closed by force; None means no limit."""

    def validate(self) -> None:
        """Raises ConfigError when a limit could never let an episode happen."""
        waits = ("env_seconds", "policy_seconds", "agent_seconds", "admit_seconds", "rubric_seconds")
        for name in ("max_turns", "max_turn_tokens", *waits, "reply_chars"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"limits.{name} must be positive, got {getattr(self, name)!r}")
        for name in ("max_tokens", "context", "seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"limits.{name} must be positive or absent, got {value!r}")
        if self.thought_tokens is not None and self.thought_tokens < 0:
            raise ConfigError(f"limits.thought_tokens must be at least 0 or absent, got {self.thought_tokens!r}")


class Sampling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How turns are sampled."""

    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    """Nucleus mass, in (0, 1]; must be 1 in training, where truncation would bias the ratio."""
    top_k: int = 0
    """Most likely ids kept; 0 keeps all; must be 0 in training."""
    min_p: float = 0.0
    """Relative probability floor, in [0, 1); must be 0 in training."""

    def validate(self, *, training: bool) -> None:
        """Raises ConfigError for impossible values, and in training for settings that make the maths wrong."""
        if self.temperature < 0:
            raise ConfigError(f"sampling.temperature must be at least 0, got {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"sampling.top_p must be in (0, 1], got {self.top_p!r}")
        if not 0 <= self.min_p < 1:
            raise ConfigError(f"sampling.min_p must be in [0, 1), got {self.min_p!r}")
        if self.top_k < 0:
            raise ConfigError(f"sampling.top_k must be at least 0, got {self.top_k!r}")
        if not training:
            return
        if self.temperature == 0:
            raise ConfigError(
                "temperature 0 in training: greedy episodes of a group are identical and carry no signal; set it above 0"
            )
        if self.top_p < 1 or self.top_k > 0 or self.min_p > 0:
            raise ConfigError(
                "top_p, top_k and min_p must be off in training: the learner's log-probabilities are of the full distribution, "
                "so the ratio would be wrong on every token"
            )
