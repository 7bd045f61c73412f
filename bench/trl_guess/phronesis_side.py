"""Phronesis' side: the same class, the plain loop of `phronesis.train.loop`.

python -m bench.trl_guess.phronesis_side CHECKPOINT OUT.json --rollouts 32 --steps 23
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import torch

from bench.trl_guess.game import CALLS, GROUP, QUESTION, secrets
from phronesis.chat.detect import format_for
from phronesis.credit.advantages import GroupMean
from phronesis.credit.build import CreditConfig
from phronesis.credit.gigpo import GiGPOCredit
from phronesis.credit.trajectory import TrajectoryCredit
from phronesis.credit.turns import TurnReturnCredit
from phronesis.data.sources import SpecTasks
from phronesis.engine.embedded import EmbeddedEngine
from phronesis.env import EnvSpec
from phronesis.envs.guess_game import GuessNumber
from phronesis.envs.trl_style import Hooks, from_class
from phronesis.losses import LossConfig
from phronesis.losses.aggregation import ConstantNorm
from phronesis.models.checkpoint import load
from phronesis.models.tokenizer import load_tokenizer
from phronesis.reason.react import ReAct
from phronesis.rollout.limits import Limits
from phronesis.rollout.play import Stage
from phronesis.store.run import Run
from phronesis.train.config import RunConfig
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.loop import Loop, train
from phronesis.train.optimizer import AdamWConfig

CREDITS: dict[str, CreditConfig] = {
    "speed": TrajectoryCredit(baseline=GroupMean()),
    "learning": GiGPOCredit(omega=1.0, gamma=1.0),
    "learning-turn": TurnReturnCredit(gamma=1.0, pool="state"),
    "learning-trajectory": TrajectoryCredit(baseline=GroupMean()),
}
"""Recipe -> who earned the reward: the peer's rule for the comparison of cost, turn credit for learning."""
RATES = {"learning-turn": 1e-3, "learning-trajectory": 1e-3, "speed": 1e-6, "learning": 1e-3}
"""Recipe -> AdamW's learning rate; 1e-6 keeps the policy where it started."""
HORIZON = 100
"""Constant in the loss's denominator, tokens."""


def environment(tasks: int, seed: int) -> EnvSpec:
    """The class as an environment. An episode ends, as in TRL, with a message that calls no tool."""
    return from_class(
        GuessNumber,
        rows={"train": [{"prompt": QUESTION, "secret": s} for s in secrets(tasks, seed)]},
        name="guess",
        turn_rewards=True,
        hooks=Hooks[GuessNumber](state_key=lambda game: f"{game.low}-{game.high}/{game.calls}/{game.found}"),
        max_turns=CALLS + 1,
    )


def measure(checkpoint: Path, recipe: str, rollouts: int, steps: int, lr: float, seed: int) -> list[dict[str, float]]:
    """Trains and returns one entry a step."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    tokenizer = load_tokenizer(checkpoint)
    decoder = load(checkpoint)
    chat = format_for(tokenizer)
    spec = environment(rollouts // GROUP * steps, seed)
    config = RunConfig(
        name=f"bench-{recipe}",
        seed=seed,
        steps=steps,
        groups=rollouts // GROUP,
        group_size=GROUP,
        limits=Limits(max_turns=CALLS + 1, max_turn_tokens=64, context=512),
        credit=CREDITS[recipe],
        learner=LearnerConfig(
            loss=LossConfig(aggregation=ConstantNorm(horizon=HORIZON)), optimizer=AdamWConfig(lr=lr), max_grad_norm=1.0
        ),
    )
    config.validate()
    entries: list[dict[str, float]] = []
    clock = [time.process_time(), time.perf_counter()]

    async def after_step(_: int, metrics: dict[str, float]) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        entries.append(
            {
                "cpu_s": cpu - clock[0],
                "wall_s": wall - clock[1],
                "generation_share": metrics["time/play"] / metrics["time/step"],
                "reward": metrics["reward/mean"],
                "sampled_tokens": metrics["tokens/sampled"],
                "turns": metrics["episode/turns"],
            }
            | {k: metrics[k] for k in ("update/grad_norm", "mismatch/kl", "mismatch/max_logprob_difference") if k in metrics}
        )
        if len(entries) % 10 == 0:
            print(f"step {len(entries)}: reward {fmean(e['reward'] for e in entries[-10:]):.3f}", file=sys.stderr, flush=True)
        clock[:] = [time.process_time(), time.perf_counter()]

    with tempfile.TemporaryDirectory() as folder, Run.create(Path(folder) / "run", config) as run:
        loop = Loop(
            config=config,
            stage=Stage(
                spec=spec,
                policy=EmbeddedEngine(decoder),
                chat=chat,
                agent=ReAct(),
                limits=config.limits,
                sampling=config.sampling,
            ),
            source=SpecTasks(spec, "train", seed),
            credit=CREDITS[recipe],
            learner=Learner(decoder, config.learner),
            run=run,
            after_step=after_step,
        )
        asyncio.run(train(loop))
    return entries


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", choices=sorted(CREDITS), default="speed")
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    lr = RATES[given.recipe] if given.lr is None else given.lr
    entries = measure(given.checkpoint, given.recipe, given.rollouts, given.steps, lr, given.seed)
    versions = {name: version(name) for name in ("phronesis", "torch", "transformers")}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    written = {
        "side": "phronesis",
        "versions": versions,
        "recipe": given.recipe,
        "lr": lr,
        "seed": given.seed,
        "steps": entries,
    }
    given.out.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
