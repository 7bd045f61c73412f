"""The gateway: HTTP in front of a token policy, so that agents of any make play, are recorded token-exactly and train it."""

from phronesis.gateway.book import Book, GatewayConfig, Work
from phronesis.gateway.episode import LiveEpisode
from phronesis.gateway.errors import GatewayError
from phronesis.gateway.serving import in_background, serving

__all__ = ["Book", "GatewayConfig", "GatewayError", "LiveEpisode", "Work", "in_background", "serving"]
