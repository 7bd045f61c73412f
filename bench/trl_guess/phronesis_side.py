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
from typing import NamedTuple

import torch

from bench.trl_guess.game import CALLS, GROUP, QUESTION, secrets
from phronesis.chat.detect import format_for
from phronesis.credit.baselines.group import GroupMean
from phronesis.credit.baselines.trajectory import TrajectoryCredit
from phronesis.credit.build import CreditConfig
from phronesis.credit.turnwise.turns import Pool, TurnReturnCredit
from phronesis.data.sources import SpecTasks
from phronesis.engine.embedded import EmbeddedEngine
from phronesis.env import EnvSpec
from phronesis.envs.guess_game import GuessNumber
from phronesis.envs.trl_style import Hooks, from_class
from phronesis.losses import LossConfig, PPOClipLoss
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
from phronesis.train.optimizer import AdamWConfig, Linear

HORIZON = 100
"""Constant in the loss's denominator, tokens."""


class Recipe(NamedTuple):
    """Who earned the reward, and how it is learned from."""

    credit: CreditConfig
    """Credit rule."""
    learner: LearnerConfig
    """Loss and optimiser."""


class Choice(NamedTuple):
    """What the command line says about training."""

    recipe: str
    """``speed`` or ``learning``."""
    lr: float | None
    """Peak learning rate; None takes the recipe's."""
    pool: Pool
    """Turns that are compared with one another (learning)."""
    epochs: int
    """Passes over a step's episodes (learning)."""
    minibatches: int
    """Updates a pass (learning)."""
    stop_when_over: bool
    """End the episode with the last guess; False waits, as TRL does, for a message that calls no tool."""


def recipe_of(choice: Choice, steps: int) -> Recipe:
    """``speed``: the peer's rule and one update a step, at a rate that keeps the policy where it started. ``learning``: credit
    per turn, and every episode used in several passes of clipped updates, at a rate that falls to zero."""
    aggregation = ConstantNorm(horizon=HORIZON)
    if choice.recipe == "speed":
        one = LearnerConfig(loss=LossConfig(aggregation=aggregation), optimizer=AdamWConfig(lr=choice.lr or 1e-6))
        return Recipe(TrajectoryCredit(baseline=GroupMean()), one)
    many = LearnerConfig(
        loss=LossConfig(objective=PPOClipLoss(eps_low=0.2, eps_high=0.2), aggregation=aggregation),
        optimizer=AdamWConfig(lr=choice.lr or 5e-4, beta2=0.99),
        schedule=Linear(steps=steps * choice.epochs * choice.minibatches),
        epochs=choice.epochs,
        minibatches=choice.minibatches,
    )
    return Recipe(TurnReturnCredit(gamma=1.0, pool=choice.pool), many)


def is_over(game: GuessNumber) -> bool:
    """The number is found, or no guess is left."""
    return game.found or game.calls >= game.limit


def environment(tasks: int, seed: int, stop_when_over: bool) -> EnvSpec:
    """The class as an environment."""
    return from_class(
        GuessNumber,
        rows={"train": [{"prompt": QUESTION, "secret": s} for s in secrets(tasks, seed)]},
        name="guess",
        turn_rewards=True,
        hooks=Hooks[GuessNumber](
            state_key=lambda game: f"{game.low}-{game.high}/{game.calls}/{game.found}",
            done=is_over if stop_when_over else None,
        ),
        max_turns=CALLS + 1,
        thread=False,
    )


def measure(checkpoint: Path, choice: Choice, *, rollouts: int, steps: int, seed: int) -> list[dict[str, float]]:
    """Trains and returns one entry a step."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    tokenizer = load_tokenizer(checkpoint)
    decoder = load(checkpoint)
    chat = format_for(tokenizer)
    chosen = recipe_of(choice, steps)
    spec = environment(rollouts // GROUP * steps, seed, choice.stop_when_over)
    config = RunConfig(
        name=f"bench-{choice.recipe}",
        seed=seed,
        steps=steps,
        groups=rollouts // GROUP,
        group_size=GROUP,
        limits=Limits(max_turns=CALLS + 1, max_turn_tokens=64, context=512),
        credit=chosen.credit,
        learner=chosen.learner,
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
            print(progress(entries, metrics), file=sys.stderr, flush=True)
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
            credit=chosen.credit,
            learner=Learner(decoder, config.learner),
            run=run,
            after_step=after_step,
        )
        asyncio.run(train(loop))
    return entries


def progress(entries: list[dict[str, float]], metrics: dict[str, float]) -> str:
    """One line about the last ten steps, with what goes wrong first when a policy collapses."""
    reward = fmean(e["reward"] for e in entries[-10:])
    seen = {
        k: metrics.get(k, 0.0) for k in ("episode/turns", "episode/tool_errors", "episode/parse_errors", "update/ratio_max")
    }
    return f"step {len(entries)}: reward {reward:.3f}, " + ", ".join(f"{k} {v:.3g}" for k, v in seen.items())


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", choices=("speed", "learning"), default="speed")
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", choices=("turn", "state", "group"), default="turn")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--minibatches", type=int, default=1)
    given = parser.parse_args(arguments)
    over = given.recipe == "learning"
    choice = Choice(given.recipe, given.lr, given.pool, given.epochs, given.minibatches, over)
    entries = measure(given.checkpoint, choice, rollouts=given.rollouts, steps=given.steps, seed=given.seed)
    versions = {name: version(name) for name in ("phronesis", "torch", "transformers")}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    written = {
        "side": "phronesis",
        "versions": versions,
        "choice": choice._asdict(),
        "seed": given.seed,
        "steps": entries,
    }
    given.out.write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
