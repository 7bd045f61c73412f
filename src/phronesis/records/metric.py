"""Metrics: typed numbers with a definition and a rule for combining them. Never a control channel."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Reducer = Literal["mean", "sum", "max", "min", "last"]


class Metric(Struct, frozen=True, kw_only=True, gc=False):
    """Definition of one metric."""

    key: str
    """``area/name``."""
    unit: str
    """nats, tokens, seconds, share, count, …"""
    reducer: Reducer
    """How values of several parts combine."""
    definition: str
    """One sentence."""
