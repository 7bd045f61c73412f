"""What a web site is to a browser here: a function from requests to responses. No sockets, no ports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import parse_qsl, quote, quote_plus, urljoin, urlsplit

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


REDIRECTS = 5
"""Redirects that are followed."""
IN_PATH, IN_QUERY = "!$%&'()*+,/:;=@[]", "!$%&()*+,/:;=?@[]^`{|}"
"""What browsers leave as it is in addresses, besides letters, digits and ``-._~``."""


def address(url: str) -> str:
    """An absolute address as browsers write it: what must be escaped is, and no dots lead up or nowhere.

    >>> address("http://shop.test/a/%2E%2e/é|?find=two words#top")
    'http://shop.test/%C3%A9%7C?find=two%20words#top'
    """
    parts = urlsplit(url)
    kept: list[str] = []
    steps = parts.path.removeprefix("/").split("/")
    for number, step in enumerate(steps):
        name = step.lower().replace("%2e", ".")
        if name == "..":
            del kept[-1:]
        if name not in (".", ".."):
            kept.append(step)
        elif number == len(steps) - 1:
            kept.append("")
    query = f"?{quote(parts.query, safe=IN_QUERY)}" if parts.query else ""
    fragment = f"#{quote(parts.fragment, safe=IN_QUERY)}" if parts.fragment else ""
    return f"{parts.scheme}://{parts.netloc}/{quote('/'.join(kept), safe=IN_PATH)}{query}{fragment}"


def encoded(fields: Sequence[tuple[str, str]]) -> str:
    """Fields of a form as browsers send them.

    >>> encoded([("find", "a ~*'é")])
    'find=a+%7E*%27%C3%A9'
    """
    made = ("=".join(quote_plus(word, safe="*").replace("~", "%7E") for word in field) for field in fields)
    return "&".join(made)


def ask(site: Site, host: str, method: str, url: str, body: str = "") -> Response | None:
    """What a site answers, redirects followed; None when the address, or one it redirects to, is not of this site."""
    for _ in range(REDIRECTS):
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.netloc != host or method not in ("GET", "POST", "HEAD"):
            return None
        response = site(request(method, url, body))
        target = next((value for name, value in response.headers.items() if name.lower() == "location"), None)
        if target is None or not 300 <= response.status < 400:
            return response
        url, method, body = urljoin(url, target), "GET", ""
    return None


def _fields(text: str) -> dict[str, str]:
    found = parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="replace", max_num_fields=1000)
    return {name: value.replace("\r\n", "\n") for name, value in found}
