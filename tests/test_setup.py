"""Pins: set-up leaves its stamps, by which make knows that it is done, only when every step of it succeeded."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
STUB = """#!/bin/sh
# Stands for the environment's python: notes what it is asked, fails where $FAILS is asked, answers builds by $BUILDS.
echo "$*" >>"$CALLS"
case "$*" in
    *phronesis.engine.native)
        answer=$(printf '%s\\n' "$BUILDS" | sed -n "$(grep -c 'engine.native$' "$CALLS")p")
        printf '%s' "${answer#* }"
        exit "${answer%% *}" ;;
    *"$FAILS"*)
        echo "cannot do that" >&2
        exit 1 ;;
esac
"""
READY, NONE, BROKEN = "0 built by cc", "1 no C compiler", "1 "


class Outcome(NamedTuple):
    code: int
    stamps: set[str]
    calls: list[str]
    said: str


def setup(tmp_path: Path, kind: str, *builds: str, fails: str = "nothing") -> Outcome:
    venv, calls = tmp_path / "venv", tmp_path / "calls"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(STUB, encoding="utf-8")
    python.chmod(0o755)
    own = {"VENV": str(venv), "PYTHON": sys.executable, "CALLS": str(calls), "FAILS": fails, "BUILDS": "\n".join(builds)}
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / "setup.sh"), kind], cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True
    )
    stamps = {p.name for p in venv.glob(".setup-*")}
    return Outcome(done.returncode, stamps, calls.read_text().splitlines(), done.stdout + done.stderr)


BOTH = {".setup-dev", ".setup-run"}


@pytest.mark.parametrize(("kind", "stamps"), [("run", {".setup-run"}), ("dev", BOTH)])
def test_when_all_goes_well(tmp_path: Path, kind: str, stamps: set[str]):
    done = setup(tmp_path, kind, READY)
    assert (done.code, done.stamps) == (0, stamps)
    assert "compiled step: built by cc" in done.said and not any("[compiler]" in c for c in done.calls)


@pytest.mark.parametrize("kind", ["run", "dev"])
@pytest.mark.parametrize("fails", ["torch==", "--editable"])
def test_an_install_that_fails(tmp_path: Path, kind: str, fails: str):
    done = setup(tmp_path, kind, READY, fails=fails)
    assert (done.code, done.stamps) == (2, set())
    assert "cannot do that" in done.said and "pip install failed" in done.said


def test_running_things_needs_no_compiler(tmp_path: Path):
    done = setup(tmp_path, "run", NONE)
    assert (done.code, done.stamps) == (0, {".setup-run"})
    assert "no compiled step, so sampling is slower: no C compiler" in done.said


def test_testing_brings_a_compiler_where_there_is_none(tmp_path: Path):
    done = setup(tmp_path, "dev", NONE, READY)
    assert (done.code, done.stamps) == (0, BOTH)
    assert [c for c in done.calls if ".[" in c][-1].endswith(".[compiler]") and "compiled step: built by cc" in done.said


def test_a_compiler_that_cannot_be_installed(tmp_path: Path):
    done = setup(tmp_path, "dev", NONE, READY, fails=".[compiler]")
    assert (done.code, done.stamps) == (2, set())


def test_a_compiler_that_does_not_help(tmp_path: Path):
    done = setup(tmp_path, "dev", NONE, NONE)
    assert (done.code, done.stamps) == (2, set())
    assert "the compiled step, which the tests need, cannot be built: no C compiler" in done.said


@pytest.mark.parametrize("kind", ["run", "dev"])
def test_a_package_that_cannot_be_imported(tmp_path: Path, kind: str):
    """Then the check dies without a word on standard output, which is not the same as having no compiler."""
    done = setup(tmp_path, kind, BROKEN)
    assert (done.code, done.stamps) == (2, set())
    assert "cannot be run" in done.said and not any("[compiler]" in c for c in done.calls)


PEERS = {"bench/trl_guess/setup_trl.sh": "trl==", "bench/crosscheck/setup_verl.sh": "--no-deps verl=="}


@pytest.mark.parametrize(("script", "package"), PEERS.items())
def test_a_peers_environment_gets_torch_first_and_is_made_once(tmp_path: Path, script: str, package: str):
    venv, calls = tmp_path / "venv", tmp_path / "calls"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(STUB, encoding="utf-8")
    python.chmod(0o755)
    own = {"PYTHON": str(python), "CALLS": str(calls), "TORCH_INDEX": "https://cpu.example"}

    def run(fails: str) -> int:
        environment = {**os.environ, **own, "FAILS": fails}
        return subprocess.run(["sh", str(ROOT / script), str(venv)], cwd=ROOT, env=environment, capture_output=True).returncode

    assert run(package) == 1 and not (venv / ".ready").exists(), "a package that cannot be installed leaves no mark"
    calls.unlink()
    assert run("nothing") == 0
    made, torch, rest = (line for line in calls.read_text().splitlines()[:3])
    assert made == f"-m venv {venv}" and package in rest
    assert torch.endswith("--extra-index-url https://cpu.example torch==2.13.0")
    calls.unlink()
    assert run("nothing") == 0 and not calls.exists(), "a second run does nothing"
