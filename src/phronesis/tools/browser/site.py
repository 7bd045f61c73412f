"""What a web site is to a browser here: a function from requests to responses. No sockets, no ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from phronesis.records import Effect


class Request(Struct, frozen=True, kw_only=True):
    """One request of a page or of something a page needs."""

    method: str
    """GET or POST."""
    path: str
    """Begins with a slash."""
    query: Mapping[str, str] = {}
    """Fields of the address; of several of one name the last."""
    form: Mapping[str, str] = {}
    """Fields of a form that was sent."""


class Response(Struct, frozen=True, kw_only=True):
    """What a site answers."""

    body: bytes | str
    """A page, or whatever it is."""
    status: int = 200
    media_type: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = {}
    """Further headers."""
    effect: Effect = "pure"
    """What the request did to the world."""


Site = Callable[[Request], Response]
"""Answers requests; state is its own business."""


def request(method: str, url: str, body: str = "") -> Request:
    """A request as a site reads it.

    >>> request("GET", "http://shop.test/list?page=2&page=3").query
    {'page': '3'}
    """
    parts = urlsplit(url)
    return Request(method=method, path=parts.path or "/", query=_fields(parts.query), form=_fields(body))


def _fields(text: str) -> dict[str, str]:
    found = parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="replace", max_num_fields=1000)
    return {name: value.replace("\r\n", "\n") for name, value in found}
