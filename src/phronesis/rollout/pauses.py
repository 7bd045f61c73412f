"""Keeps the pauses of Python's garbage collector short while many episodes are in flight.

What a run has loaded (PyTorch and transformers alone are some 400,000 objects) is looked at in every full collection, which
then takes 0.2-0.5 s during which nothing else happens. It is set aside here. Records of play are not looked at either: they
cannot be part of a cycle, so they are made without a collector's header (``gc=False``).
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

YOUNG = 2000
"""New objects between two collections of the youngest; Python's own 700 is for programs that hold less."""
MIDDLE, OLD = 1, 100_000
"""Collections of one generation between two of the next. With Python's own 10, a collection of the second looked at 50,000
objects and stopped everything for 40 ms; with 1, for 3 ms. The oldest are left to `tidy`."""
SELDOM = 10.0
"""Seconds between two full collections, at least."""


class _Held:
    """What the process had before the first of all runs that are under way in it, in whatever thread."""

    def __init__(self) -> None:
        """None is under way."""
        self.lock = threading.Lock()
        self.runs = 0
        self.thresholds = gc.get_threshold()
        self.froze = False
        self.tidied = 0.0


_HELD = _Held()


@contextmanager
def short_pauses() -> Generator[None]:
    """Sets aside every object there is now, and collects less often; after the last of several runs at once all is as before.

    What the program around has set aside itself stays so, and then nothing else is. A threshold that is higher already stays,
    also 0, which means never.

    Cycles among the objects set aside are not found in the meantime. Reference counts free everything else as usual.
    """
    with _HELD.lock:
        _HELD.runs += 1
        if _HELD.runs == 1:
            _HELD.thresholds, _HELD.froze = gc.get_threshold(), not gc.get_freeze_count()
            young = _HELD.thresholds[0]
            if young:
                gc.set_threshold(max(young, YOUNG), MIDDLE, OLD)
            _HELD.tidied = time.monotonic()
        if _HELD.froze:
            gc.freeze()
    try:
        yield
    finally:
        with _HELD.lock:
            _HELD.runs -= 1
            if _HELD.runs == 0:
                gc.set_threshold(*_HELD.thresholds)
                if _HELD.froze:
                    gc.unfreeze()


def tidy() -> None:
    """A full collection of what came since `short_pauses` began, at a moment when a pause disturbs least, e.g. between steps.
    Does nothing where one was made a few seconds ago, outside of `short_pauses`, or where the program has switched them off."""
    with _HELD.lock:
        now = time.monotonic()
        if not _HELD.runs or not gc.isenabled() or not gc.get_threshold()[0] or now - _HELD.tidied < SELDOM:
            return
        _HELD.tidied = now
    gc.collect()
