"""The gateway: HTTP in front of a token policy, so that agents of any make play, are recorded token-exactly and train it."""

from phronesis.gateway.book import Book, GatewayConfig, Work
from phronesis.gateway.episode import LiveEpisode
from phronesis.gateway.errors import GatewayError
from phronesis.gateway.serving import in_background, serving
from phronesis.gateway.work import OutsideAgents

__all__ = ["Book", "GatewayConfig", "GatewayError", "LiveEpisode", "OutsideAgents", "Work", "in_background", "serving"]
