"""The run folder: append-only, crash-safe writing; lazy, permissive reading; a rebuildable index."""

from phronesis.store.folder import write_whole
from phronesis.store.images import ImageFolder
from phronesis.store.index import Where
from phronesis.store.layout import Layout
from phronesis.store.quarantine import Stretch
from phronesis.store.row import Row
from phronesis.store.run import Damage, Event, Run, RunWriter, StepMetrics

__all__ = [
    "Damage",
    "Event",
    "ImageFolder",
    "Layout",
    "Row",
    "Run",
    "RunWriter",
    "StepMetrics",
    "Stretch",
    "Where",
    "write_whole",
]
