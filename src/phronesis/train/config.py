"""What a run is: one frozen tree of settings, every part beside its meaning. No behaviour, no torch."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from phronesis.chat.format import Retention
from phronesis.errors import ConfigError
from phronesis.rollout.limits import Limits, Sampling


class EnvChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which environment, and its dials."""

    name: str = "ledger"
    """Built-in name, entry point, or import path ``package.module:make``."""
    args: dict[str, Any] = {}
    """Keyword arguments of the environment's factory."""
