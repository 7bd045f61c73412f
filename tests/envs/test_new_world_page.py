"""The page about a world of one's own keeps what its title says; that it runs and learns, `tests/test_docs.py` shows."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "new-world.md"


def test_world_and_training_take_under_forty_lines():
    """All lines of the file and of the command that trains, blank ones and imports included."""
    text = PAGE.read_text(encoding="utf-8")
    world = re.search(r"```python kiosk\.py\n(.*?)```", text, re.DOTALL)
    training = re.findall(r"^\$ phronesis train .*$", text, re.MULTILINE)
    assert world is not None and len(training) == 1
    lines = world[1].rstrip("\n").split("\n") + training
    assert len(lines) < 40, len(lines)
    assert "assert gain.low > 0" in text
