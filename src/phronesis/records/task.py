"""A task: the question an episode tries to answer."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from phronesis.records.message import Message


class Task(Struct, frozen=True, kw_only=True, gc=False):
    """One problem of one environment. Everything the policy may see is in the messages; the rest is hidden."""

    id: str
    """Unique within the environment and split, stable across runs."""
    env: str
    """Name of the environment that plays it."""
    messages: tuple[Message, ...] = ()
    """Opening messages; the environment's reset may add more."""
    payload: dict[str, Any] = {}
    """Hidden facts (answers, seeds of the world). Only the environment and the rubric read it. JSON values only."""
    split: str = "train"
    """``train``, ``heldout`` or another family name."""
    difficulty: float | None = None
    """The generator's difficulty dial, larger is harder; None when the environment has no dial."""
    content_key: str | None = None
    """Hash of what makes the task this task; equal keys are the same problem. None when not computed."""
