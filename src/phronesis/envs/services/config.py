"""How a run listens for environment services."""

from __future__ import annotations

import os

from msgspec import Struct

from phronesis.envs.services.wire import TOKEN
from phronesis.errors import ConfigError
from phronesis.serving import LOOPBACK


class ServicesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where environment services register, and when they count as lost. The secret they must show, if any, is not a setting:
    it comes from the environment variable ``PHRONESIS_SERVICES_TOKEN``, so that no run folder holds it."""

    host: str = "127.0.0.1"
    """Address to listen at; others than loopback need a token."""
    port: int = 0
    """Port to listen at; 0 takes a free one, and a resumed run the one it had, if that is still free."""
    heartbeat_seconds: float = 2.0
    """Seconds between the heartbeats of a service."""
    suspect_seconds: float = 6.0
    """A service silent for so long gets no new episodes until it is heard again."""
    lost_seconds: float = 20.0
    """A service silent for so long is removed, and its episodes fault at once and can be played elsewhere."""

    def validate(self, token: str | None) -> None:
        """Refuses values that cannot work.

        Raises:
            ConfigError: names the field.
        """
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"services.port must be in 0..65535, got {self.port!r}")
        if not 0 < self.heartbeat_seconds < self.suspect_seconds < self.lost_seconds:
            raise ConfigError(
                "a service is suspected after some missed heartbeats and removed later: 0 < services.heartbeat_seconds < "
                f"services.suspect_seconds < services.lost_seconds, got {self.heartbeat_seconds!r}, {self.suspect_seconds!r}, "
                f"{self.lost_seconds!r}"
            )
        if self.host not in LOOPBACK and not token:
            raise ConfigError(
                f"services.host {self.host!r} can be reached from other machines; set {TOKEN} to a secret that services must "
                "send, or listen at 127.0.0.1"
            )


def token() -> str | None:
    """The secret that runs and services show one another; None where they need none.

    Raises:
        ConfigError: no header can carry it.
    """
    found = os.environ.get(TOKEN) or None
    if found is not None and not all("!" <= c <= "~" for c in found):
        raise ConfigError(f"{TOKEN} holds a space or a character that is not ASCII; choose letters and digits")
    return found
