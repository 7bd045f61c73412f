"""`python -m bench.crosscheck`: makes the peers' environments, lets each compute in its own, prints the largest differences.

``--peer-python NAME=PATH`` takes an interpreter that already has the peer. Exit code 1 when a difference is above its bound.
``--keep`` writes a digest of the peers' numbers to peers.json, which the tests hold ours against without the peers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.crosscheck import inputs as shared
from bench.crosscheck.ours import TRL, VERL, Numbers

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = Path(__file__).resolve().parent / "peers.json"
"""Digests of the peers' numbers."""


class Peer(NamedTuple):
    """A library to agree with."""

    name: str
    """With its version."""
    setup: str
    """Script that makes its environment."""
    environment: str
    """Folder it is made in."""
    ours: dict[str, Numbers]
    """What is compared."""


PEERS = {
    "trl": Peer("TRL 1.16.0", "bench/trl_guess/setup_trl.sh", ".venv-trl", TRL),
    "verl": Peer("verl 0.9.1", "bench/crosscheck/setup_verl.sh", ".venv-verl", VERL),
}

BOUND = 1e-12
"""Largest difference allowed, relative to 1 + the largest number, where nothing is known to differ."""
SINGLE, GUARD = 2e-7, 1e-8
"""The same where the peer takes some number in float32, and where it adds 1e-8 to a denominator."""

NOTES: dict[tuple[str, str], tuple[float, str]] = {
    ("trl", "grpo"): (
        SINGLE,
        "TRL adds 1e-4 to the deviation, we 1e-6 (`eps`); its n / (n - 1) is float32. Alone: TRL 0, we refuse",
    ),
    ("trl", "lite-ppo"): (SINGLE, "TRL's `scale_rewards = batch`; as above"),
    ("trl", "gdpo"): (SINGLE, "TRL's `normalize_then_sum`; adds 1e-4 twice, we 1e-6"),
    ("trl", "ppo, sequence mean of token means"): (
        BOUND,
        "TRL counts sequences without a token in the mean, we do not; it does not clamp log-ratios, we do at 20",
    ),
    ("trl", "ppo, token mean of the micro-batch"): (
        BOUND,
        "`bnpo` divides by the micro-batch's tokens, we always by the step's",
    ),
    ("trl", "ppo, constant norm"): (BOUND, "TRL counts sequences without a token"),
    ("trl", "gspo"): (BOUND, "TRL's clip is .2 unless set, ours the paper's 3e-4 / 4e-4"),
    ("trl", "cispo"): (BOUND, "TRL's `epsilon_high` is the cap itself, not 1 + eps"),
    ("trl", "sapo"): (SINGLE, "TRL's temperatures are float32 (ours were, until this comparison)"),
    ("trl", "vespo"): (BOUND, "TRL keeps lambda at least 1e-4"),
    ("trl", "k3 in the loss"): (BOUND, "TRL has no other; ours is k3plus unless told"),
    ("trl", "opsm"): (BOUND, "TRL compares with the sampler; ours with `old` unless told"),
    ("trl", "ent-top"): (
        BOUND,
        "TRL cuts at a float32 quantile, we take the ceil(share N) highest; the same tokens in these draws",
    ),
    ("trl", "mis"): (BOUND, "on a bound: both keep it, we within 1e-9 nats"),
    ("trl", "ipo"): (BOUND, "TRL first divides each side by its length; answers of one token here"),
    ("trl", "sdpo, top 3 and tail"): (BOUND, "TRL keeps the head's mass below 1 - 1e-7 and subtracts; we sum the tail"),
    ("verl", "grpo"): (BOUND, "alone in a group: verl keeps the reward, we refuse unless told"),
    ("verl", "rfpp-baseline"): (GUARD, "verl adds 1e-8 to the count in mean and variance"),
    ("verl", "rfpp"): (GUARD, "as above"),
    ("verl", "gpg, verl's alpha"): (
        SINGLE,
        "alpha: verl divides by the rewards that are not 0 (in float32), we by the samples in groups that vary",
    ),
    ("verl", "gdpo"): (SINGLE, "ours counts one value per sample unless `tokens`, as here; verl is float32"),
    ("verl", "otb, no holes"): (BOUND, "verl aligns traces by column, holes included; we by sampled token"),
    ("verl", "gae-skip"): (GUARD, "verl always whitens, we if asked"),
    ("verl", "whiten"): (GUARD, "1e-8 in the count; equal values: exactly 0 here, noise in verl"),
    ("verl", "ppo with dual clip, seq-mean-token-mean"): (GUARD, "verl adds 1e-8 to each length"),
    ("verl", "ppo with dual clip, seq-mean-token-sum-norm"): (
        BOUND,
        "the horizon is verl's padded width unless set, a setting here",
    ),
    ("verl", "gspo"): (GUARD, "1e-8 in each length; clip .2 unless set"),
    ("verl", "gmpo"): (GUARD, "1e-8 in each length; verl counts sequences without a token"),
    ("verl", "cispo"): (BOUND, "verl also clips below at 1 - eps_low; ours has `floor`, 0"),
    ("verl", "sapo"): (GUARD, "1e-8 in each length"),
    ("verl", "dppo-tv"): (
        BOUND,
        "our `form = detached`, kappa 0; verl caps r at `clip_ratio_c`, 3 unless set; we its log at 20",
    ),
    ("verl", "clip-cov, gradient"): (
        BOUND,
        "verl sets chosen losses to 0, we detach them; verl draws from the band, we take the largest (all, here)",
    ),
    ("verl", "kl-cov"): (BOUND, "verl's coefficient is .1 unless set, ours the paper's 1"),
    ("verl", "tis-token, normalised"): (GUARD, "1e-8 in the count"),
    ("verl", "mis"): (BOUND, "verl's IcePop bounds; dropped tokens stay in the denominators of both"),
    ("verl", "geo-reject"): (BOUND, "verl bounds the inverse ratio: its [lo, hi] is our [1 / hi, 1 / lo]"),
    ("verl", "k3"): (BOUND, "verl keeps the estimate within 10"),
}
"""The bound, and what differs by convention; the comparison itself runs with equal settings."""


class Agreement(NamedTuple):
    """One line of the table."""

    peer: str
    formula: str
    largest: float
    scale: float
    bound: float
    note: str


def peer_numbers(key: str, peer: Peer, python: str | None) -> list[dict[str, Tensor]]:
    """What the peer computes, one draw after the other.

    Raises:
        RuntimeError: its side failed; carries the end of its output.
    """
    if python is None:
        subprocess.run(["sh", peer.setup], cwd=ROOT, check=True)
        python = str(ROOT / peer.environment / "bin" / "python")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "numbers.pt"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [python, "-m", f"bench.crosscheck.{key}_side", str(out)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the side of {peer.name} failed:\n{(done.stdout + done.stderr)[-4000:]}")
        return torch.load(out, weights_only=True)


def digest(numbers: Tensor) -> list[float]:
    """Two weighted sums, which other numbers will not share."""
    flat = numbers.detach().double().reshape(-1)
    places = torch.arange(1, flat.numel() + 1, dtype=torch.float64)
    return [float(flat @ places.cos()), float(flat @ places.sin())]


def compare(key: str, peer: Peer, theirs: list[dict[str, Tensor]]) -> list[Agreement]:
    """Every formula of one peer: largest absolute difference over all draws, and the largest number compared."""
    if unknown := theirs[0].keys() ^ peer.ours.keys():
        raise RuntimeError(f"only one side has {sorted(unknown)!r}")
    found: list[Agreement] = []
    for formula, numbers in peer.ours.items():
        pairs = [
            (numbers(shared.draw(seed)).detach(), one[formula].double()) for seed, one in zip(shared.SEEDS, theirs, strict=True)
        ]
        largest = max(float((a - b).abs().max()) for a, b in pairs)
        scale = max(float(b.abs().max()) for _, b in pairs)
        found.append(Agreement(peer.name, formula, largest, scale, *NOTES.get((key, formula), (BOUND, ""))))
    return found


def table(rows: list[Agreement]) -> str:
    """Markdown."""
    lines = ["| peer | formula | max abs difference | largest number | what differs |", "|---|---|---|---|---|"]
    lines += [f"| {r.peer} | {r.formula} | {r.largest:.1e} | {r.scale:.3g} | {r.note} |" for r in rows]
    return "\n".join(lines)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.crosscheck", description=__doc__)
    parser.add_argument("peer", nargs="*", help=f"any of {', '.join(PEERS)}; none means all")
    parser.add_argument("--peer-python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--keep", action="store_true", help="write peers.json")
    chosen = parser.parse_args()
    pythons = dict(pair.split("=", 1) for pair in chosen.peer_python)
    theirs = {key: peer_numbers(key, PEERS[key], pythons.get(key)) for key in chosen.peer or PEERS}
    if chosen.keep:
        kept = {key: {f: [digest(one[f]) for one in draws] for f in draws[0]} for key, draws in theirs.items()}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    rows = [row for key, draws in theirs.items() for row in compare(key, PEERS[key], draws)]
    print(table(rows))
    apart = [r for r in rows if not r.largest <= r.bound * (1 + r.scale)]
    for r in apart:
        print(f"apart: {r.peer} {r.formula}: {r.largest:.3g}", file=sys.stderr)
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
