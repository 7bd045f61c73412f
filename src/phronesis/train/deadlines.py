"""How long the phases of a step may take that await foreign code. What an episode may take is in `phronesis.rollout.limits`."""

from __future__ import annotations

from msgspec import Struct

from phronesis.errors import ConfigError


class Deadlines(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on waiting; each ends the run with `phronesis.errors.Overdue`, and its last checkpoint can be resumed.

    Computing is not cut short by them: an update of the weights, in a thread or not, is announced by heartbeats and left alone.
    """

    credit_seconds: float = 7200.0
    """For a step's credit, re-runs and judges included, above 0."""
    lesson_seconds: float = 14400.0
    """For a step's lesson, above 0."""

    def validate(self) -> None:
        """Raises ConfigError for a limit that is not positive."""
        for name in self.__struct_fields__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"deadlines.{name} must be positive, got {getattr(self, name)!r}")
