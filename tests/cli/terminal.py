"""Runs the command line in this process and shows what a person would see."""

import io
from typing import NamedTuple

import pytest

from phronesis.cli.main import main


class Seen(NamedTuple):
    """What one command did."""

    code: int
    out: str
    err: str


def phronesis(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str, stdin: str = "") -> Seen:
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    capsys.readouterr()
    code = main(words)
    return Seen(code, *capsys.readouterr())
