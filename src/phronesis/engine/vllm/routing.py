"""Which server a request goes to: an episode stays where its prefix is cached, unless that server is overloaded or gone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from math import ceil
from typing import Protocol, TypeVar

SLACK = 4
"""Requests a server may always have, however few the others have."""
REMEMBERED = 65_536
"""Keys whose server is remembered; the least recently used are forgotten first."""


class Place(Protocol):
    """A server as routing sees it."""

    url: str
    """Its address."""
    load: int
    """Requests in flight."""


P = TypeVar("P", bound=Place)


class Router:
    """Rendezvous hashing with bounded loads, and a memory of where keys went.

    A key's order of servers depends on their addresses alone, so a server that goes or comes moves only its own share of the
    keys. The first server in that order whose load is within `spread` times the mean is taken.

    Source: rendezvous hashing (Thaler & Ravishankar 1998); bounded loads (arXiv 1608.01350).
    """

    def __init__(self, spread: float = 1.25):
        self.spread = spread
        self.moves = 0
        """Times a key left the server it was on."""
        self._homes: OrderedDict[str, str] = OrderedDict()

    def choose(self, key: str | None, servers: Sequence[P], avoid: frozenset[str] = frozenset()) -> P | None:
        """The server for a request; None when there is none.

        Args:
            key: requests with equal keys extend one another; None has no preference.
            servers: those that can answer now.
            avoid: addresses not to use while others are left.
        """
        usable = [s for s in servers if s.url not in avoid] or list(servers)
        if not usable:
            return None
        least = min(usable, key=lambda s: s.load)
        if key is None:
            return least
        bound = max(SLACK, ceil(self.spread * (sum(s.load for s in usable) + 1) / len(usable)))
        home = self._homes.get(key)
        order = sorted(usable, key=lambda s: (s.url != home, _weight(key, s.url)))
        chosen = next((s for s in order if s.load < bound), least)
        if home is not None and chosen.url != home:
            self.moves += 1
        self._homes[key] = chosen.url
        self._homes.move_to_end(key)
        while len(self._homes) > REMEMBERED:
            self._homes.popitem(last=False)
        return chosen

    def forget(self, key: str) -> None:
        """The key will not be used again."""
        self._homes.pop(key, None)


def _weight(key: str, url: str) -> bytes:
    return blake2b(f"{key}\x1f{url}".encode(), digest_size=8).digest()
