"""One real vLLM server for all tests of this folder, on a small model of ours; started here, stopped at the end.

The tests give it weights and kill it, so they cannot share it with another process: under xdist the folder is left out, and
`make test` runs it by itself after the rest.
"""

from __future__ import annotations

import asyncio
import os

import pytest
from vllm_worlds import PYTHON, Player, settings

from phronesis.engine.vllm.fleet import Fleet

if os.environ.get("PYTEST_XDIST_WORKER"):
    collect_ignore_glob = ["test_*"]


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory):
    """A fleet of one real server."""
    if not PYTHON.exists():
        pytest.skip(f"needs the vLLM environment {PYTHON.parent.parent}: make setup-vllm")
    fleet = Fleet(settings(), tmp_path_factory.mktemp("servers"))
    yield fleet
    asyncio.run(fleet.close())


@pytest.fixture
def player(fleet: Fleet) -> Player:
    """Fresh weights on the server."""
    return Player(fleet)
