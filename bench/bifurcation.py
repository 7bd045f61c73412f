"""Which credit rule finds the one turn that matters, and what that is worth: success after equal environment steps, agreement
with the exact advantage, and the price in environment steps.

python -m bench.bifurcation OUT.json [--horizons 1 4 10 20 40] [--seeds 0 1 2] [--rules NAME ...]

One small policy is primed on random letters for each horizon; every rule starts from it. Controls: `random` gives every turn
the size of the episode's advantage with a random sign; `oracle` gives the exact advantage.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from msgspec.structs import replace

from phronesis.credit.baselines.group import GroupMean, LeaveOneOut
from phronesis.credit.baselines.trajectory import TrajectoryCredit, episode_advantages
from phronesis.credit.critics.gae import GAECredit
from phronesis.credit.critics.turn_gae import TurnGAECredit
from phronesis.credit.replays.earl import EARLCredit
from phronesis.credit.replays.montecarlo import VinePPOCredit
from phronesis.credit.rule import CreditRule, NeedsValues, Rerun, TokenValues, Values, members, spread
from phronesis.credit.trees.arpo import ARPOCredit
from phronesis.credit.trees.tree import TreeCredit, branch_reward
from phronesis.credit.turnwise.gigpo import GiGPOCredit
from phronesis.credit.turnwise.rewardflow import RewardFlowCredit
from phronesis.credit.turnwise.turns import TurnReturnCredit
from phronesis.envs.bifurcation import RIGHT, bifurcation, exact_advantages
from phronesis.envs.demonstrations import with_demonstrations
from phronesis.losses import LossConfig, PPOClipLoss
from phronesis.models.tiny import TinyModel
from phronesis.reason.players.arpo import ARPOPlayer
from phronesis.reason.players.build import Alone, PlayerConfig
from phronesis.reason.players.earl import EARLPlayer
from phronesis.reason.players.tree import TreePlayer
from phronesis.records import Credit, Episode, EpisodeGroup
from phronesis.rollout.limits import Limits
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.config import EvalConfig, ModelConfig, PrimeConfig, RunConfig
from phronesis.train.critic import CriticConfig
from phronesis.train.learner import LearnerConfig
from phronesis.train.optimizer import AdamWConfig, MuonConfig
from phronesis.train.supervised import SupervisedConfig

GROUPS, GROUP, STEPS, CONTINUATIONS = 4, 4, 20, 2
"""Episodes of a step, steps of a rule that plays nothing again, and continuations a turn of one that does."""
MATTERS = 0.1
"""Exact advantages below this are not compared."""
MODEL = TinyModel(width=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp_width=64, max_positions=1024, embed_std=0.4)


class Random:
    """The episode's advantage at every turn, with a random sign: a control of equal norm."""

    def __init__(self) -> None:
        self._source = random.Random(0)

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Noise."""
        sizes = episode_advantages(group, LeaveOneOut())
        rows = {e: [a * self._source.choice((-1, 1)) for _ in group.episodes[e].turns] for e, a in sizes.items()}
        return spread(group, rows, zero_variance=not any(sizes.values()))


class Oracle:
    """The exact advantage."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Nothing but the decisive turn."""
        rows = {e: exact(group, e) for e in members(group).kept}
        return spread(group, rows, zero_variance=False)


class Case(NamedTuple):
    """A rule and what it needs."""

    make: Callable[[], CreditRule]
    """Builds it."""
    critic: bool = False
    """Whether it asks a critic."""
    reruns: bool = False
    """Whether it plays episodes on from their turns."""
    player: Callable[[int], PlayerConfig] = lambda horizon: Alone()
    """How a group's attempts come about, by horizon. Branches pay for what they replay, so that a group of branches takes as
    many environment steps as a group of fresh attempts."""


RULES = {
    "broadcast (RLOO)": Case(TrajectoryCredit),
    "turn returns": Case(lambda: TurnReturnCredit(gamma=1.0, pool="turn")),
    "GiGPO": Case(lambda: GiGPOCredit(gamma=1.0)),
    "RewardFlow": Case(RewardFlowCredit),
    "GAE, tokens": Case(lambda: GAECredit(gamma=1.0, lam=0.95), critic=True),
    "GAE, turns": Case(lambda: TurnGAECredit(gamma=1.0, lam=0.95), critic=True),
    "VinePPO": Case(lambda: VinePPOCredit(rollouts=CONTINUATIONS), reruns=True),
    "VinePPO, equal updates": Case(lambda: VinePPOCredit(rollouts=CONTINUATIONS), reruns=True),
    "ARPO": Case(lambda: ARPOCredit(baseline=GroupMean()), player=lambda horizon: ARPOPlayer(initial=GROUP // 2)),
    "tree, 2 x 2": Case(
        lambda: TreeCredit(), player=lambda horizon: TreePlayer(widths=(2, GROUP // 2), every=max(1, horizon // 2))
    ),
    "EARL": Case(lambda: EARLCredit(baseline=GroupMean()), player=lambda horizon: EARLPlayer()),
    "random": Case(Random),
    "oracle": Case(Oracle),
}


class Seen:
    """What a rule assigned, against the exact advantage."""

    def __init__(self) -> None:
        self.correlations: list[float] = []
        self.ranks: list[float] = []

    def note(self, group: EpisodeGroup, credit: Credit) -> None:
        """Compares one group's credit, turn by turn."""
        for e, end in branches(group, credit):
            line = group.episodes[e].line(end)
            rows = credit.values[e]
            if rows is None or len(line) < 2:
                continue
            given = [statistics.fmean(rows[k]) for k in line]
            wanted = exact(group, e, end)
            if max(map(abs, wanted)) < MATTERS:
                continue  # nothing to tell: the policy is as good as certain here
            at = wanted.index(max(wanted, key=abs))
            larger = sum(abs(g) > abs(given[at]) + 1e-12 for g in given)
            equal = sum(abs(abs(g) - abs(given[at])) <= 1e-12 for g in given)
            self.ranks.append((larger + (equal + 1) / 2 - 1) / (len(given) - 1))
            spread_of = statistics.pstdev(given)
            self.correlations.append(statistics.correlation(given, wanted) if spread_of > 1e-9 and any(wanted) else 0.0)


class Watched:
    """A rule that is looked at while it works."""

    def __init__(self, inner: CreditRule, seen: Seen) -> None:
        self.inner, self.seen = inner, seen

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """The inner rule's credit."""
        credit = await self.inner.assign(group, rerun)
        self.seen.note(group, credit)
        return credit


class WatchedValues(Watched):
    """The same for rules over values."""

    inner: NeedsValues  # pyright: ignore

    def with_values(self, values: Values) -> CreditRule:
        """Bound to one step's values."""
        return Watched(self.inner.with_values(values), self.seen)

    def targets(self, episode: Episode, values: TokenValues) -> TokenValues:
        """The inner rule's targets."""
        return self.inner.targets(episode, values)


CURRENT: list[Watched] = []
"""The rule of the run in progress: a run names its rule by import path, and this process makes one run at a time."""


def current() -> Watched:
    """What the run's import path finds."""
    return sys.modules["bench.bifurcation"].CURRENT[-1]


def branches(group: EpisodeGroup, credit: Credit) -> list[tuple[int, int]]:
    """Every attempt whose credit is known: its episode, and its last turn there."""
    return [(e, end) for e, values in enumerate(credit.values) if values is not None for end in group.episodes[e].ends]


def exact(group: EpisodeGroup, e: int, end: int | None = None) -> list[float]:
    """The exact advantage of each turn of an attempt; the probability of the right letter is read off siblings that said it."""
    episode = group.episodes[e]
    last = episode.ends[-1] if end is None else end
    decisive = int(group.task.payload["decisive"])
    lines = [[x.turns[k] for k in x.line(at)] for x in group.episodes for at in x.ends]
    said = {id(line[decisive]): line[decisive] for line in lines if len(line) > decisive}
    known = [math.exp(sum(t.logprobs)) for t in said.values() if t.action is not None and t.action.text.strip() == RIGHT]
    chance = statistics.fmean(known) if known else 0.0
    return exact_advantages(decisive, len(episode.line(last)), branch_reward(episode, last), chance)


def base(horizon: int, seed: int) -> RunConfig:
    """Settings all rules share."""
    return RunConfig(
        name="bifurcation",
        seed=seed,
        limits=Limits(max_turns=horizon, max_turn_tokens=6),
        groups=GROUPS,
        group_size=GROUP,
        steps=STEPS,
        learner=LearnerConfig(loss=LossConfig(objective=PPOClipLoss()), optimizer=AdamWConfig(lr=1e-3), max_tokens=4096),
        evaluation=EvalConfig(tasks=0),
        checkpoint_every=10_000,
        threads=1,
    )


def start(horizon: int, seed: int, folder: Path) -> Path:
    """A policy that says random letters: primed, not yet rewarded."""
    supervised = SupervisedConfig(
        max_steps=60,
        epochs=60,
        batch_tokens=1500,
        optimizer=MuonConfig(lr=0.02, rest=AdamWConfig(lr=5e-3)),
        decay="linear",
        warmup=2,
    )
    config = replace(
        base(horizon, seed),
        model=ModelConfig(tiny=MODEL, vocab_size=300),
        prime=PrimeConfig(demonstrations=max(24, 1500 // horizon), supervised=supervised),
        steps=1,
        learner=LearnerConfig(optimizer=AdamWConfig(lr=1e-9)),
    )
    job.run(config, folder, spec=with_demonstrations(bifurcation(horizon)))
    return next((folder / "checkpoints").glob("step-*0"))


def measure(name: str, horizon: int, seed: int, begin: Path, folder: Path) -> dict[str, float]:
    """One run of one rule."""
    case, seen = RULES[name], Seen()
    rule = case.make()
    CURRENT.append(WatchedValues(rule, seen) if case.critic else Watched(rule, seen))
    steps = STEPS
    if case.reruns and "equal updates" not in name:
        steps = max(1, round(STEPS / (1 + CONTINUATIONS * (horizon + 1) / 2)))
    config = replace(
        base(horizon, seed),
        model=ModelConfig(path=str(begin)),
        credit="bench.bifurcation:current",
        player=case.player(horizon),
        critic=CriticConfig(warmup=3) if case.critic else None,
        steps=steps,
    )
    job.run(config, folder, spec=bifurcation(horizon))
    with Run.open(folder) as run:
        rewards = [value for _, value in run.curve("reward/mean")]
        own = steps * GROUPS * GROUP * horizon
        again = sum(value for _, value in run.curve("rerun/env_steps")) if case.reruns else 0.0
        if name == "EARL":  # on top of the group; branches are part of it
            paid = [run.curve(f"player/{key}") for key in ("env_steps", "replayed")]
            again = sum(value for curve in paid for _, value in curve)
    return {
        "success": statistics.fmean(rewards[-max(1, steps // 8) :]),
        "first": rewards[0],
        "correlation": statistics.fmean(seen.correlations) if seen.correlations else float("nan"),
        "rank": statistics.fmean(seen.ranks) if seen.ranks else float("nan"),
        "steps": float(steps),
        "extra": again / own,
    }


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 4, 10, 20, 40])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: list[dict[str, object]] = []
    for horizon in given.horizons:
        for seed in given.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                begin = start(horizon, seed, Path(scratch, "start"))
                for n, name in enumerate(given.rules):
                    if "equal updates" in name and horizon > 10:
                        continue
                    row = measure(name, horizon, seed, begin, Path(scratch, f"run-{n}"))
                    found.append({"rule": name, "horizon": horizon, "seed": seed} | row)
                    print(json.dumps(found[-1]), file=sys.stderr, flush=True)
                    given.out.write_text(json.dumps(found, indent=1))
    print(table(found))


def table(found: list[dict[str, object]]) -> str:
    """Medians over seeds, one line per rule, one column per horizon: success (correlation, rank)."""
    horizons = sorted({int(str(r["horizon"])) for r in found})
    lines = ["| rule | " + " | ".join(f"H = {h}" for h in horizons) + " |", "|---" * (len(horizons) + 1) + "|"]
    for name in dict.fromkeys(str(r["rule"]) for r in found):
        cells: list[str] = []
        for h in horizons:
            rows = [r for r in found if r["rule"] == name and r["horizon"] == h]
            if not rows:
                cells.append("")
                continue
            success, correlation, rank, extra = (
                statistics.median(float(str(r[k])) for r in rows) for k in ("success", "correlation", "rank", "extra")
            )
            shown = f"{success:.2f}" + (f" ({correlation:.2f}, {rank:.2f})" if h > 1 else "")
            cells.append(shown + (f" +{extra:.{0 if extra >= 1 else 2}f}x" if extra else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    from bench.bifurcation import main as run  # so that the import path of the rule finds this module, not a second copy

    run(sys.argv[1:])
