"""One update by one process, and by two that hold the learner together (ddp, fsdp), side by side.

Two processes are meant to save wall time and nothing else, which needs two idle cores to be seen; so two numbers are taken.
Wall time, every side taking its turn in every round. And the CPU-seconds on the longest way: those of the busier process and of
the run itself (sending the batch, copying the weights back), which is the wall time where nobody else computes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import torch

from bench.learner import PROMPT, VOCABULARY, step_rows
from bench.measure import Row, compare, quick
from phronesis.models.tiny import TinyModel, tiny
from phronesis.records import Batch, Segment
from phronesis.train.group.config import LearnerGroupConfig
from phronesis.train.group.learner import GroupLearner
from phronesis.train.group.processes import Processes
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.learning import Learns
from phronesis.train.optimizer import AdamWConfig

ROUNDS = 5
MODEL = TinyModel(width=256, layers=4, heads=4, kv_heads=2, head_dim=64, mlp_width=768)
"""3.3 M weights: the larger of the sizes compared with TRL."""
CONFIG = LearnerConfig(optimizer=AdamWConfig(lr=1e-6), mismatch_error=100.0, mismatch_warn=100.0)


class Cost(NamedTuple):
    """Of one update."""

    wall: float
    """Seconds."""
    cpu: float
    """CPU-seconds on the longest way."""


def group() -> list[Row]:
    """All rows."""
    batch = grouped_batch(1)
    started = {m: Processes(LearnerGroupConfig(ranks=2, method=m, threads=1)) for m in ("ddp", "fsdp")}
    learners: dict[str, Learns] = {
        m: GroupLearner(fresh(), CONFIG, p.config, start=lambda _, p=p: p) for m, p in started.items()
    }
    learners["alone"] = Learner(fresh(), CONFIG)
    taken: dict[str, list[Cost]] = {name: [] for name in learners}
    try:
        for i in range(2 if quick() else ROUNDS + 1):
            for name, learner in learners.items():
                cost = measured(learner, batch, started[name].pids if name in started else [])
                if i:
                    taken[name].append(cost)
    finally:
        for learner in learners.values():
            learner.close()
    one, what = taken.pop("alone"), f"update of {batch.tokens} tokens, {MODEL.width}x{MODEL.layers}"
    rows: list[Row] = []
    for method, found in taken.items():
        for i, unit in enumerate(("s", "CPU-s of the busiest")):
            mine, theirs = [cost[i] for cost in found], [cost[i] for cost in one]
            rows.append(compare("group", f"{what}, {method} of 2", mine, theirs, unit=unit, peer_name="one process"))
    return rows


def measured(learner: Learns, batch: Batch, pids: list[int]) -> Cost:
    """What one update costs; `pids` are those of the processes that hold it, if any."""
    before, own, began = [used(pid) for pid in pids], time.process_time(), time.perf_counter()
    learner.update(batch)
    wall, mine = time.perf_counter() - began, time.process_time() - own
    return Cost(wall, mine + max((used(pid) - was for pid, was in zip(pids, before, strict=True)), default=0.0))


def used(pid: int) -> float:
    """CPU-seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fresh():
    """The model every side begins with."""
    return tiny(MODEL, VOCABULARY, 0)


def grouped_batch(repeats: int) -> Batch:
    """As many steps of the comparison with TRL: a prompt of 194 tokens and 32 episodes each."""
    segments: list[Segment] = []
    counts: list[int] = []
    for _ in range(repeats):
        prompt, rows = step_rows()
        root, none = len(segments), (0.0,) * PROMPT
        segments.append(
            Segment(
                parent=None, ids=tuple(prompt), mask=(False,) * PROMPT, logprobs=none, advantages=none, turns=(-1,) * PROMPT,
                episode=-1,
            )
        )  # fmt: skip
        for _, ids, said, advantage in rows:
            segments.append(
                Segment(
                    parent=root,
                    ids=tuple(ids),
                    mask=tuple(said),
                    logprobs=tuple(-6.0 if s else 0.0 for s in said),
                    advantages=tuple(advantage if s else 0.0 for s in said),
                    turns=tuple(0 if s else -1 for s in said),
                    episode=len(counts),
                )
            )
            counts.append(sum(said))
    return Batch(
        segments=tuple(segments),
        episodes=tuple(map(str, range(len(counts)))),
        sequence_tokens=tuple(counts),
        total_tokens=sum(counts),
        total_sequences=len(counts),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"load before: {os.getloadavg()[0]:.1f}")
    for row in group():
        said = f"{row.ours:.3f} against {row.peer:.3f} {row.unit}: {row.ratio:.2f} times as fast"
        print(f"{row.what}: {said}, ± {100 * row.noise:.0f} %")
