from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from terminal import Seen, phronesis

from phronesis import log


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Seen]]:
    """Runs a command in an empty folder and hands back code, output and complaints."""
    monkeypatch.chdir(tmp_path)
    root = log.logging.getLogger(log.ROOT)
    before = (root.handlers[:], root.level, root.propagate)
    yield partial(phronesis, capsys, monkeypatch)
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])
