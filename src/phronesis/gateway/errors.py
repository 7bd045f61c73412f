"""What the gateway refuses, with the HTTP status and a stable code; each API writes it in its own format."""

from __future__ import annotations

from phronesis.errors import PhronesisError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Names by which only this machine reaches itself."""


class GatewayError(PhronesisError):
    """A request that is not served. Its text says what to do.

    Args:
        status: HTTP status.
        code: stable word for programs, e.g. ``unknown_episode``.
        message: one or two sentences for people.
        retry_after: seconds after which the same request may succeed; None means it will not by itself.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after

    def __reduce__(self) -> tuple[type[GatewayError], tuple[int, str, str, float | None]]:
        return type(self), (self.status, self.code, str(self), self.retry_after)


def bad_request(message: str, code: str = "invalid_request") -> GatewayError:
    """400: the request can never be served as it is."""
    return GatewayError(400, code, message)


def conflict(message: str, code: str) -> GatewayError:
    """409: the episode's state does not allow it."""
    return GatewayError(409, code, message)
