"""No attack on a box succeeds, as root and as an ordinary user, on every way of isolating that this machine has."""

import asyncio
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sandbox import attacks

ROOT = Path(__file__).parent.parent.parent
CASES = [("namespaces", "user"), ("landlock", "user"), ("bubblewrap", "user")]
if os.geteuid() == 0:
    CASES.append(("namespaces", "root"))


@functools.cache
def outcomes(tier, who):
    """Of all attacks, played once."""
    if who == "root" or os.geteuid() != 0:
        return asyncio.run(attacks.run_all(tier))
    line = [sys.executable, str(ROOT / "tests/sandbox/as_user.py"), sys.executable, "-m", "tests.sandbox.attacks", tier]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=250)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)


@pytest.mark.parametrize(("tier", "who"), CASES)
def test_every_attack_is_held(tier, who):
    if tier == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap (program bwrap)")
    found = outcomes(tier, who)
    assert set(found) == set(attacks.ATTACKS)
    assert {name: said for name, said in found.items() if said != "held"} == {}
