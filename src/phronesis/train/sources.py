"""Which environments a run plays: one, or several sources of tasks at once."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from phronesis.credit.build import CreditConfig
from phronesis.data.order import Listed, TaskOrder
from phronesis.envs.trouble import Trouble
from phronesis.errors import ConfigError
from phronesis.rollout.limits import Limits


class EnvChoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which environment, and its dials."""

    name: str = "ledger"
    """Built-in name, entry point, or import path ``package.module:make``."""
    args: dict[str, Any] = {}
    """Keyword arguments of the environment's factory."""


class SourceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several sources of tasks."""

    env: EnvChoice
    """What is played."""
    share: float = 1.0
    """How much of what is trained on comes from here, beside the shares of the others; at least 0. May be changed while the
    run goes on (``phronesis shares``)."""
    concurrency: int | None = None
    """Most of its episodes in flight, at least 1, so that a slow source leaves room to the others; None means no limit of its
    own."""
    tasks: TaskOrder = Listed()
    """Which of its tasks comes next."""
    limits: Limits | None = None
    """What its episodes may use; None takes the run's limits."""
    trouble: Trouble | None = None
    """Make it slow and break it on purpose while training, to see how a run bears it; None leaves it as it is."""
    rubric: str | None = None
    """Import path ``package.module:rubric`` of a `phronesis.env.Rubric`, or of what makes one without arguments, that judges
    its episodes instead of the environment's own."""
    credit: CreditConfig | str | None = None
    """Who earned its rewards; None takes the run's rule. A rule that asks a critic can only be the run's."""

    def validate(self, name: str) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: names the field and what to change.
        """
        if not name or "/" in name or name != name.strip():
            raise ConfigError(f"sources.{name!r}: a source's name needs characters, and no '/' or spaces around it")
        if self.share < 0:
            raise ConfigError(f"sources.{name}.share must be at least 0, got {self.share!r}")
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigError(f"sources.{name}.concurrency must be at least 1, got {self.concurrency!r}")
        if self.limits is not None:
            self.limits.validate()
        if self.trouble is not None:
            self.trouble.validate()
