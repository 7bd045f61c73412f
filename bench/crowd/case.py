"""Thousands of simulated episodes in one process: what of the ideal rate is attained, and at what cost, beside two peers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.crowd.plan import Found
from bench.measure import RESULTS, ROOT, Row, compare, quick
from bench.trl_guess.case import peer_environment

SHORT, LONG = 230, 3950
"""Words of a question: a prompt of about 300 tokens, and one of about 4,000."""
VERIFIERS = Path(os.environ.get("VERIFIERS_VENV", ROOT / ".venv-catalogues" / "verifiers-v0")) / "bin" / "python"
TRL = "TRL 1.16, loop of AsyncGRPOTrainer, without HTTP"
NAME_VERIFIERS = "verifiers 0.1.14, ToolEnv.generate, without token ids"


def side(python: Path, module: str, *settings: str | int | float | Path) -> Found:
    """One side, in a process of its own, on all cores, with one thread for arithmetic."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [python, "-m", f"bench.crowd.{module}", *map(str, settings)]
    environment = os.environ | threads | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} {settings} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    found = Found(**json.loads(done.stdout.splitlines()[-1]))
    print(f"{module} {settings}: {found}", file=sys.stderr, flush=True)
    return found


def ours(concurrency: int, words: int, rounds: float) -> Found:
    """Phronesis."""
    return side(Path(sys.executable), "phronesis_side", concurrency, words, "--rounds", rounds)


def rows_of(what: str, mine: Sequence[Found], theirs: Sequence[Found], peer: str) -> list[Row]:
    """The four figures of two sides."""
    found: list[Row] = []
    for field, name, unit, better, scale in (
        ("attained", "of the ideal rate", "%", "higher", 100.0),
        ("lag_p99", "event-loop lag, 99 % of the time below", "ms", "lower", 1.0),
        ("cpu_per_turn", "processor time of a turn", "CPU-ms", "lower", 1.0),
        ("kib_per_episode", "memory of an episode in flight", "KiB", "lower", 1.0),
    ):
        a, b = ([scale * getattr(f, field) for f in fs] for fs in (mine, theirs))
        found.append(compare("crowd", f"{name}, {what}", a, b, unit=unit, peer_name=peer, better=better))
    return found


def alone(what: str, mine: Sequence[Found]) -> Row:
    """Attained rate with the lag in words, against the ideal itself."""
    lag, cpu, kib = (median(getattr(f, field) for f in mine) for field in ("lag_p99", "cpu_per_turn", "kib_per_episode"))
    note = f"{what}; lag {lag:.1f} ms, {cpu:.2f} CPU-ms a turn, {kib:.0f} KiB an episode"
    attained = [100 * f.attained for f in mine]
    return compare(
        "crowd", note, attained, [100.0], unit="% of the ideal rate", peer_name="ideal", better="higher", target=0.95
    )


def tokenizer() -> Path:
    """The tokenizer in a folder, for the peer that encodes."""
    folder = RESULTS / "crowd-tokenizer"
    if not (folder / "tokenizer.json").exists():
        from bench.crowd.phronesis_side import tokenizer as make

        folder.mkdir(parents=True, exist_ok=True)
        make().save_pretrained(folder)
    return folder


def crowd() -> list[Row]:
    """Prompts of 300 tokens: 500 to 10,000 episodes, and both peers at 2,000."""
    if quick():
        return [alone("64 episodes, prompts of 300 tokens", [ours(64, SHORT, 1.0)])]
    rows = [alone(f"{n:,} episodes, prompts of 300 tokens", [ours(n, SHORT, 1.5)]) for n in (500, 5000, 10000)]
    mine = [ours(2000, SHORT, 2.0) for _ in range(2)]
    rows.insert(1, alone("2,000 episodes, prompts of 300 tokens", mine))
    what = "2,000 episodes, 300 tokens"
    if VERIFIERS.exists():
        rows += rows_of(what, mine, [side(VERIFIERS, "verifiers_side", 2000, SHORT, "--rounds", 1)], NAME_VERIFIERS)
    rows += rows_of(what, mine, [side(peer_environment(), "trl_side", tokenizer(), 2000, SHORT, "--rounds", 1)], TRL)
    return rows


def long() -> list[Row]:
    """Prompts of 4,000 tokens: 500 and 2,000 episodes, and both peers at 500."""
    rows = [alone("2,000 episodes, prompts of 4,000 tokens", [ours(2000, LONG, 2.0)])]
    mine = [ours(500, LONG, 2.0)]
    rows.append(alone("500 episodes, prompts of 4,000 tokens", mine))
    what = "500 episodes, 4,000 tokens"
    if VERIFIERS.exists():
        rows += rows_of(what, mine, [side(VERIFIERS, "verifiers_side", 500, LONG, "--rounds", 1)], NAME_VERIFIERS)
    rows += rows_of(what, mine, [side(peer_environment(), "trl_side", tokenizer(), 500, LONG, "--rounds", 0.5)], TRL)
    return rows
