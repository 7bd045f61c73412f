"""`phronesis replay`: play a stored episode again and compare every token, log-probability and reply."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from phronesis.cli.output import AsJson, examples, new_app, say, say_json
from phronesis.cli.player import Player, settings, take
from phronesis.errors import CheckpointError
from phronesis.evals.replay import Replayed, replay
from phronesis.records import Episode
from phronesis.rollout.limits import Sampling
from phronesis.store import Run
from phronesis.train.config import RunConfig
from phronesis.view.terminal import render

app = new_app()


@app.command(
    epilog=examples(
        "phronesis replay runs/quickstart-seed0 train-0-3-1",
        "phronesis replay runs/quickstart-seed0 heldout_after-17-0 --tokens",
        "phronesis replay runs/quickstart-seed0 heldout_after-17-0 --json",
    )
)
def replay_episode(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    id: Annotated[str, typer.Argument(metavar="EPISODE", help="An episode's id, as the report shows it.")],
    kind: Annotated[str | None, typer.Option(help="Needed only where two kinds of episodes share an id.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Also list every token with its log-probability.")] = False,
    as_json: AsJson = False,
) -> None:
    """Play a stored episode again and compare it with what was stored.

    With the weights that played it, every token and log-probability must come out bit for bit. Where no checkpoint holds
    them, the recorded completions are used, which still checks the environment and the prompts. Exit code 1 when they differ.
    """
    with Run.open(run) as opened:
        episode = opened.get(id, kind)
        computed = [e.fields.get("arithmetic") for e in opened.events() if e.kind == "engine"]
    config = settings(run, [])
    player, resampled = _player(run, config, episode)
    sampling = config.sampling if episode.step is not None else Sampling()
    result = asyncio.run(replay(player.stage(sampling), episode, player.seat.engine if resampled else None))
    if as_json:
        say_json(
            {"episode": id, "exact": result.exact, "resampled": resampled, "tokens": result.tokens}
            | {
                "max_logprob_difference": result.max_logprob_difference,
                "differences": result.differences,
                "weights": str(player.weights),
            }
        )
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        say(render(result.episode, width=width, colour=sys.stdout.isatty(), tokens=tokens, decode=player.decode))
        say(verdict(result, player, resampled))
        here = player.seat.engine.arithmetic
        if not result.exact and resampled and computed and here not in computed:
            say(f"the run sampled with {computed[-1]}, this is {here}: last bits may differ for that alone")
    if not result.exact:
        raise typer.Exit(1)


def _player(run: Path, config: RunConfig, episode: Episode) -> tuple[Player, bool]:
    """The weights that played the episode when they were kept, else the newest; and whether they are the ones."""
    versions = {v for turn in episode.turns for v in turn.version}
    if len(versions) == 1:
        try:
            return take(run, config, next(iter(versions))), True
        except CheckpointError:
            pass  # not kept: fall back on the recorded completions
    return take(run, config), False


def verdict(result: Replayed, player: Player, resampled: bool) -> str:
    """One line when all is well; the first difference otherwise."""
    how = (
        f"sampled again with {player.weights}"
        if resampled
        else "recorded completions, as no checkpoint holds the weights that played it"
    )
    if result.exact:
        gap = "" if result.max_logprob_difference is None else f", largest |Δlogp| {result.max_logprob_difference:g} nats"
        return f"the same bit for bit: {len(result.episode.turns)} turns, {result.tokens} tokens{gap} ({how})"
    lines = [f"DIFFERS ({how})"]
    for d in result.differences:
        where = "episode" if d.turn is None else f"turn {d.turn}"
        lines.append(f"  {where}, {d.what}: stored {d.recorded}; now {d.again}")
    return "\n".join(lines)
