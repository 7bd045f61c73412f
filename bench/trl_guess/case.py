"""The comparison with TRL on guess-the-number: what a training step costs, and what training achieves."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from bench.measure import RESULTS, ROOT, Row, compare, pinned

TRL_ENVIRONMENT = Path(os.environ.get("TRL_VENV", ROOT / ".venv-trl"))
PEER = "TRL 1.16 environment_factory"
WARM_UP = 3
"""Steps of a process that are not counted."""
ROUNDS = 3
"""Times both sides run, one after the other: a shared machine is faster in some minutes than in others."""


Steps = list[dict[str, float]]


class Size(NamedTuple):
    """A model both sides train."""

    width: int
    layers: int
    games: int
    """Games the shared start is cloned from."""
    steps: int
    """Training steps of a round, warm-up included."""
    target: float
    """Times fewer CPU-seconds a step than the peer."""

    @property
    def name(self) -> str:
        """For example ``64x2``."""
        return f"{self.width}x{self.layers}"


SIZES = (Size(64, 2, 6000, 13, 4.0), Size(256, 4, 1500, 7, 3.0))
SEEDS = (0, 1, 2)
LEARNING_STEPS = 120
LEARNING_ROLLOUTS = 64


def speed() -> list[Row]:
    """CPU-seconds a step and sampled tokens per CPU-second of 32 rollouts in groups of 8, at a learning rate that keeps the
    policy where it started, so that both sides do the same work in every step."""
    rows: list[Row] = []
    peer_python = peer_environment()
    for size in SIZES:
        start = warm_start(size)
        peer, ours = Steps(), Steps()
        for n in range(ROUNDS):
            settings = {"steps": size.steps, "seed": n}
            peer += steps_of(peer_python, "bench.trl_guess.trl_side", start, f"trl-{size.name}-{n}", **settings)[WARM_UP:]
            ours += steps_of(
                Path(sys.executable), "bench.trl_guess.phronesis_side", start, f"phronesis-{size.name}-{n}", **settings
            )[WARM_UP:]
        rows.append(
            compare(
                "trl-guess",
                f"step of 32 rollouts, {size.name}",
                [s["cpu_s"] for s in ours],
                [s["cpu_s"] for s in peer],
                unit="CPU-s",
                peer_name=PEER,
                target=size.target,
            )
        )
        rows.append(
            compare(
                "trl-guess",
                f"sampled tokens, {size.name}",
                [s["sampled_tokens"] / s["cpu_s"] for s in ours],
                [s["sampled_tokens"] / s["cpu_s"] for s in peer],
                unit="tokens per CPU-s",
                peer_name=PEER,
                better="higher",
            )
        )
    return rows


def learning() -> list[Row]:
    """Mean reward of the last ten steps after 120 steps of 64 rollouts, from the same start, over three seeds."""
    start, peer_python = warm_start(SIZES[0]), peer_environment()
    peer_end: list[float] = []
    our_end: list[float] = []
    for seed in SEEDS:
        peer = steps_of(
            peer_python,
            "bench.trl_guess.trl_side",
            start,
            f"trl-learning-{seed}",
            steps=LEARNING_STEPS,
            rollouts=LEARNING_ROLLOUTS,
            lr=3e-4,
            seed=seed,
        )
        ours = steps_of(
            Path(sys.executable),
            "bench.trl_guess.phronesis_side",
            start,
            f"phronesis-learning-{seed}",
            steps=LEARNING_STEPS,
            rollouts=LEARNING_ROLLOUTS,
            seed=seed,
            recipe="learning",
        )
        peer_end.append(statistics.mean(s["reward"] for s in peer[-10:]))
        our_end.append(statistics.mean(s["reward"] for s in ours[-10:]))
        print(f"seed {seed}: TRL {curve(peer)}; Phronesis {curve(ours)}", file=sys.stderr, flush=True)
    return [
        compare(
            "trl-learning",
            "mean reward of the last 10 of 120 steps (start 0.28, bisection 0.81), median of 3 seeds",
            our_end,
            peer_end,
            unit="reward",
            peer_name=f"{PEER}, dr_grpo, lr 3e-4",
            better="higher",
        )
    ]


def curve(steps: Steps) -> str:
    """Mean reward of each fifth of the steps, and the CPU-seconds of all.

    >>> curve([{"reward": r, "cpu_s": 1.0} for r in (0, 0.1, 0.2, 0.3, 0.4)])
    '0.00 0.10 0.20 0.30 0.40 in 5 CPU-s'
    """
    size = max(1, len(steps) // 5)
    means = [statistics.mean(s["reward"] for s in steps[i : i + size]) for i in range(0, size * 5, size)]
    return " ".join(f"{m:.2f}" for m in means) + f" in {sum(s['cpu_s'] for s in steps):.0f} CPU-s"


def peer_environment() -> Path:
    """The interpreter of the peer's environment, made when missing."""
    subprocess.run(["sh", str(Path(__file__).with_name("setup_trl.sh")), str(TRL_ENVIRONMENT)], cwd=ROOT, check=True)
    return TRL_ENVIRONMENT / "bin" / "python"


def warm_start(size: Size) -> Path:
    """The shared start of a size, made when missing."""
    folder = RESULTS / f"warm-start-{size.name}"
    if not (folder / "config.json").exists():
        command = [sys.executable, "-m", "bench.trl_guess.warm_start", folder]
        print(pinned([*command, f"--width={size.width}", f"--layers={size.layers}", f"--games={size.games}"]), file=sys.stderr)
    return folder


def steps_of(python: Path, module: str, start: Path, name: str, **settings: float | str) -> Steps:
    """Runs one side and reads what it measured."""
    out = RESULTS / f"{name}.json"
    pinned([python, "-m", module, start, out, *(f"--{key}={value}" for key, value in settings.items())])
    return json.loads(out.read_text())["steps"]
