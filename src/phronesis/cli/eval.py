"""`phronesis eval`: how often an agent succeeds on held-out tasks, with an interval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from phronesis.cli.guest import Guest, endpoint, invite, refuse_strays, render_spent, spent
from phronesis.cli.output import AsJson, examples, new_app, say, say_json, table
from phronesis.cli.player import Player, settings, take
from phronesis.cli.watch import Watch
from phronesis.data.sources import SpecTasks
from phronesis.errors import ConfigError
from phronesis.evals.run import EvalSummary, evaluate
from phronesis.records import Episode, Task
from phronesis.rollout.limits import Sampling
from phronesis.rollout.play import Stage
from phronesis.train.progress import Progress
from phronesis.train.state import check_context

app = new_app()


@app.command(
    epilog=examples(
        "phronesis eval runs/quickstart-seed0",
        "phronesis eval runs/quickstart-seed0 --temperature 0 --step 20",
        "phronesis eval runs/quickstart-seed0 env.args.difficulty=5 --tasks 1000",
        "phronesis eval path/to/model env.name=my_pkg.my_env:make --json",
        "phronesis eval openai:my-model@http://127.0.0.1:8000/v1 --like runs/quickstart-seed0",
        "phronesis eval endpoint.toml env.name=guess endpoint.requests_per_minute=60",
    )
)
def evaluate_agent(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL|ENDPOINT",
            help="A run folder, a Hugging Face model folder, or an endpoint that takes messages: openai:MODEL@URL, "
            "responses:MODEL@URL, anthropic:MODEL@URL, or a TOML file.",
        ),
    ],
    changes: Annotated[list[str] | None, typer.Argument(metavar="PATH=VALUE", help="Settings to change.")] = None,
    tasks: Annotated[int, typer.Option(help="Number of tasks.")] = 512,
    samples: Annotated[int, typer.Option(help="Episodes per task.")] = 1,
    split: Annotated[str, typer.Option(help="Split of the tasks.")] = "heldout",
    temperature: Annotated[float, typer.Option(help="0 plays greedily.")] = 1.0,
    step: Annotated[int | None, typer.Option(help="Checkpoint of this training step.  [default: newest]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of tasks and episodes.  [default: the run's]")] = None,
    like: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Give an endpoint the environment, limits and seed of this run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate an agent on held-out tasks.

    Prints success with its 95 % Wilson interval, by difficulty where tasks have one; of an endpoint also what it cost. The
    same seed gives the same tasks and episode seeds for every agent, so two evaluations can be compared task by task.
    """
    if tasks < 1 or samples < 1:
        raise ConfigError(f"--tasks and --samples must be at least 1, got {tasks!r} and {samples!r}")
    sampling = Sampling(temperature=temperature)
    sampling.validate(training=False)
    player = _player(source, changes or [], step, like)
    chosen = player.config.seed if seed is None else seed
    drawn = SpecTasks(player.spec, split, chosen).draw(tasks)
    with Watch(as_json) as watch:
        count = 0

        def told(episode: Episode) -> None:
            nonlocal count
            count += 1
            watch(Progress(phase="evaluate", done=count, total=tasks * samples))

        name = f"{split}_eval"
        play = Play(seed=chosen, name=name, samples=samples, concurrency=_concurrency(player), told=told)
        summary, episodes = asyncio.run(checked(player.stage(sampling), drawn, play))
    guest = player if isinstance(player, Guest) else None
    who = f"weights {player.weights}" if isinstance(player, Player) else f"endpoint {player.policy.name}"
    usage = spent(episodes)
    if as_json:
        shown = {"weights": str(player.weights)} if isinstance(player, Player) else {"endpoint": player.policy.name}
        shown |= {"env": player.spec.name, "split": split}
        more = {} if guest is None else {"usage": usage, "requests": guest.policy.client.counts}
        say_json({**shown, "seed": chosen, "result": summary, **more})
        return
    text = render(summary, player.spec.name, who)
    say(text if guest is None or usage is None else f"{text}\n{render_spent(usage, guest, len(episodes))}")


def _player(source: str, changes: list[str], step: int | None, like: Path | None) -> Player | Guest:
    named = endpoint(source)
    if named is None:
        refuse_strays(changes, like)
        return take(Path(source), settings(Path(source), changes), step)
    if step is not None:
        raise ConfigError(f"{source!r} is an endpoint, not a run; leave out --step")
    return invite(named, changes, like)


def _concurrency(player: Player | Guest) -> int:
    """Episodes in flight; of an endpoint no more than it gets requests at once, so that no episode waits long for its turn."""
    if isinstance(player, Player):
        return 256
    asked = player.policy.config
    return max(1, min(asked.http.concurrency, int(asked.requests_per_minute or asked.http.concurrency)))


@dataclass(frozen=True, kw_only=True)
class Play:
    """How the tasks are played."""

    seed: int
    """Seed of the episodes."""
    name: str
    """Part of their ids."""
    samples: int
    """Episodes per task."""
    concurrency: int
    """Most episodes in flight."""
    told: Callable[[Episode], None]
    """Called with each scored episode."""


async def checked(stage: Stage, tasks: Sequence[Task], play: Play) -> tuple[EvalSummary, list[Episode]]:
    """The evaluation, refused where the context has no room for an answer."""
    for task in {task.env: task for task in reversed(tasks)}.values():  # the first of every environment
        await check_context(stage, task, play.seed)
    return await evaluate(
        stage, tasks, seed=play.seed, name=play.name, samples=play.samples, concurrency=play.concurrency, on_episode=play.told
    )


def render(summary: EvalSummary, env: str, who: str) -> str:
    """The result as text: success first."""
    lines = [
        f"success {summary.success:.1%} [{summary.ci_low:.1%}, {summary.ci_high:.1%}] on {summary.n} episodes of "
        f"{env} (temperature {summary.temperature:g}, {who})",
        f"mean reward {summary.mean_reward:.3f}, turns {summary.mean_turns:.1f}, sampled tokens {summary.mean_tokens:.0f}, "
        f"faults {summary.faults}",
    ]
    if not summary.mean_turns:
        lines.append(f"no turn was played: every episode of {env} was over with its opening")
    if summary.by_source:
        rows = [[name, f"{share:.1%}", str(n)] for name, (share, n) in summary.by_source.items()]
        lines += ["", table(rows, ["source", "success", "episodes"])]
    if summary.by_difficulty:
        rows = [[level, f"{share:.1%}", str(n)] for level, (share, n) in summary.by_difficulty.items()]
        lines += ["", table(rows, ["difficulty", "success", "episodes"])]
    return "\n".join(lines)
