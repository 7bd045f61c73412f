"""Several sources of tasks at a glance, while they are trained on: shares, success, what plays, what broke, how long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from rich.table import Table

_PREFIX = "source/"


def sources_of(values: Mapping[str, float]) -> list[str]:
    """The sources a step's metrics speak of, in their order; none for a run with one environment."""
    return [key.split("/")[1] for key in values if key.startswith(_PREFIX) and key.endswith("/share")]


class SourcesTable:
    """What the steps so far said, one row a source and one line about the buffer."""

    def __init__(self) -> None:
        self._groups: dict[str, float] = defaultdict(float)
        self._last: dict[str, float] = {}
        self._faults = self._saved = self._lost = 0.0

    def add(self, values: Mapping[str, float]) -> None:
        """Takes in a step's metrics."""
        for name in sources_of(values):
            self._groups[name] += values.get(f"{_PREFIX}{name}/groups", 0.0)
        self._faults += values.get("retries/faults", 0.0)
        self._saved += values.get("retries/saved", 0.0)
        self._lost += values.get("retries/lost", 0.0)
        self._last |= values

    def table(self) -> Table:
        """As a table of `rich`."""
        found = Table(box=None, pad_edge=False, header_style="bold")
        found.add_column("source")
        for title in ("share", "so far", "groups", "success", "reward", "playing", "faults", "median s"):
            found.add_column(title, justify="right")
        total = sum(self._groups.values()) or 1.0
        for name, groups in self._groups.items():
            found.add_row(
                name,
                self._shown(f"{_PREFIX}{name}/share", ".0%"),
                f"{groups / total:.0%}",
                f"{groups:.0f}",
                self._shown(f"{_PREFIX}{name}/success", ".0%"),
                self._shown(f"{_PREFIX}{name}/reward", ".2f"),
                self._shown(f"{_PREFIX}{name}/playing", ".0f"),
                self._shown(f"{_PREFIX}{name}/faults", ".0%"),
                self._shown(f"time/source/{name}", ".2f"),
            )
        return found

    def line(self) -> str:
        """Ages, waits and failures in words.

        >>> table = SourcesTable()
        >>> table.add({"age/mean": 0.5, "age/max": 2.0, "time/wait": 0.3, "time/step": 1.0, "retries/faults": 3.0})
        >>> table.line()
        'age of tokens 0.50 updates, at most 2; waiting 30% of the step; 3 attempts failed, 0 made good, 0 lost'
        """
        parts: list[str] = []
        if "age/mean" in self._last:
            parts.append(f"age of tokens {self._last['age/mean']:.2f} updates, at most {self._last.get('age/max', 0.0):.0f}")
        if "time/wait" in self._last and self._last.get("time/step"):
            parts.append(f"waiting {self._last['time/wait'] / self._last['time/step']:.0%} of the step")
        parts.append(f"{self._faults:.0f} attempts failed, {self._saved:.0f} made good, {self._lost:.0f} lost")
        return "; ".join(parts)

    def _shown(self, key: str, spec: str) -> str:
        return format(self._last[key], spec) if key in self._last else "-"
