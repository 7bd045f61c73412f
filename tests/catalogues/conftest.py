"""Packages of other makes, each in its own environment; `make setup-catalogues` installs them.

Their workers are shared by all tests of this folder and take gigabytes, so that under xdist the folder is left out, and
`make test` runs it by itself after the rest.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("PHRONESIS_CATALOGUES", str(Path(__file__).resolve().parents[2] / ".venv-catalogues"))
sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("gateway", "train", "../examples/gateway")]
if os.environ.get("PYTEST_XDIST_WORKER"):
    collect_ignore_glob = ["test_*"]

from phronesis.envs.worker import hub


@pytest.fixture(scope="session", autouse=True)
def workers():
    """Ends all worker processes after the last test."""
    yield
    hub.close()
