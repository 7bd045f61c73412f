"""What a server says when it refuses: whether to ask again, how long to wait, what a person can do about it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same request may succeed: time-outs, conflicts, limits, failures and overload of the server."""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait; None when it does not, or says nothing that can be read.

    >>> retry_after({"retry-after": "2.5"}), retry_after({"retry-after-ms": "250"}), retry_after({})
    (2.5, 0.25, None)
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds != seconds or seconds == float("inf"):
            continue
        return max(seconds, 0.0)
    return None


def advice(status: int) -> str:
    """What a person can do about a status."""
    if status in (401, 403):
        return "check the API key and what it may do"
    if status == 404:
        return "check the address and the model's name"
    if status == 413:
        return "the request is too large; shorten the conversation"
    if status == 429:
        return "lower the rate limits or the concurrency, or check the account's quota"
    if status >= 500:
        return "the server is failing; look at its log, or allow more attempts"
    if status >= 400:
        return "the server refused the request; what it said names the field"
    return "the server redirects; name the address it means"
