"""Keeps the pauses of Python's garbage collector short while many episodes are in flight.

What a run has loaded (PyTorch and transformers alone are some 400,000 objects) is looked at in every full collection, which
then takes 0.2-0.5 s during which nothing else happens. It is set aside here. Records of play are not looked at either: they
cannot be part of a cycle, so they are made without a collector's header (``gc=False``).
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

YOUNG = 5000
"""New objects between two collections of the youngest; Python's own 700 is for programs that hold less."""


@contextmanager
def short_pauses() -> Generator[None]:
    """Sets aside every object there is now, and collects less often; afterwards all is as before.

    Cycles among the objects set aside are not found in the meantime. Reference counts free everything else as usual.
    """
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(YOUNG, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
