"""`phronesis eval`: how often an agent succeeds on held-out tasks, with an interval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from phronesis.cli.output import AsJson, examples, new_app, say, say_json, table
from phronesis.cli.player import Player, settings, take
from phronesis.cli.watch import Watch
from phronesis.data.sources import SpecTasks
from phronesis.errors import ConfigError
from phronesis.evals.run import EvalSummary, evaluate
from phronesis.records import Episode, Task
from phronesis.rollout.limits import Sampling
from phronesis.rollout.play import Stage
from phronesis.train.job import check_context
from phronesis.train.progress import Progress

app = new_app()


@app.command(
    epilog=examples(
        "phronesis eval runs/quickstart-seed0",
        "phronesis eval runs/quickstart-seed0 --temperature 0 --step 20",
        "phronesis eval runs/quickstart-seed0 env.args.difficulty=5 --tasks 1000",
        "phronesis eval path/to/model env.name=my_pkg.my_env:make --json",
    )
)
def evaluate_agent(
    source: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a Hugging Face model folder.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="PATH=VALUE", help="Settings to change.")] = None,
    tasks: Annotated[int, typer.Option(help="Number of tasks.")] = 512,
    samples: Annotated[int, typer.Option(help="Episodes per task.")] = 1,
    split: Annotated[str, typer.Option(help="Split of the tasks.")] = "heldout",
    temperature: Annotated[float, typer.Option(help="0 plays greedily.")] = 1.0,
    step: Annotated[int | None, typer.Option(help="Checkpoint of this training step.  [default: newest]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of tasks and episodes.  [default: the run's]")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate an agent on held-out tasks.

    Prints success with its 95 % Wilson interval, by difficulty where tasks have one. The same seed gives the same tasks and
    episode seeds for every agent, so two evaluations can be compared task by task.
    """
    if tasks < 1 or samples < 1:
        raise ConfigError(f"--tasks and --samples must be at least 1, got {tasks!r} and {samples!r}")
    sampling = Sampling(temperature=temperature)
    sampling.validate(training=False)
    config = settings(source, changes or [])
    player = take(source, config, step)
    chosen = config.seed if seed is None else seed
    drawn = SpecTasks(player.spec, split, chosen).draw(tasks)
    with Watch(as_json) as watch:
        count = 0

        def told(episode: Episode) -> None:
            nonlocal count
            count += 1
            watch(Progress(phase="evaluate", done=count, total=tasks * samples))

        name = f"{split}_eval"
        summary = asyncio.run(checked(player.stage(sampling), drawn, seed=chosen, name=name, samples=samples, told=told))
    if as_json:
        say_json({"weights": str(player.weights), "env": player.spec.name, "split": split, "seed": chosen, "result": summary})
    else:
        say(render(summary, player))


async def checked(
    stage: Stage, tasks: Sequence[Task], *, seed: int, name: str, samples: int, told: Callable[[Episode], None]
) -> EvalSummary:
    """The evaluation, refused where the context has no room for an answer."""
    await check_context(stage, tasks[0], seed)
    summary, _ = await evaluate(stage, tasks, seed=seed, name=name, samples=samples, on_episode=told)
    return summary


def render(summary: EvalSummary, player: Player) -> str:
    """The result as text: success first."""
    lines = [
        f"success {summary.success:.1%} [{summary.ci_low:.1%}, {summary.ci_high:.1%}] on {summary.n} episodes of "
        f"{player.spec.name} (temperature {summary.temperature:g}, weights {player.weights})",
        f"mean reward {summary.mean_reward:.3f}, turns {summary.mean_turns:.1f}, sampled tokens {summary.mean_tokens:.0f}, "
        f"faults {summary.faults}",
    ]
    if not summary.mean_turns:
        lines.append(f"no turn was played: every episode of {player.spec.name} was over with its opening")
    if summary.by_difficulty:
        rows = [[level, f"{share:.1%}", str(n)] for level, (share, n) in summary.by_difficulty.items()]
        lines += ["", table(rows, ["difficulty", "success", "episodes"])]
    return "\n".join(lines)
