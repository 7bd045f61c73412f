"""`phronesis replay`: play a stored episode again and compare every token, log-probability and reply."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from phronesis.cli.output import AsJson, examples, new_app, say, say_json
from phronesis.cli.player import Player, settings, take
from phronesis.errors import CheckpointError
from phronesis.evals.replay import AsPlayed, Replayed, replay
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

    With the weights that played it, every token and log-probability must come out bit for bit. Turns whose weights no
    checkpoint holds, and turns that new weights reached in their middle, are not sampled again: their recorded completions are
    used, which still checks the environment and the prompts. Exit code 1 when they differ.
    """
    with Run.open(run) as opened:
        episode = opened.get(id, kind)
        computed = [e.fields.get("arithmetic") for e in opened.events() if e.kind == "engine"]
    config = settings(run, [])
    players = _players(run, config, episode)
    player, again = players.get(max(players, default=0)) or take(run, config), _again(episode, players)
    resampled = again == len(episode.turns) > 0
    sampling = config.sampling if episode.step is not None else Sampling()
    policies = {version: p.seat.engine for version, p in players.items()}
    speaking = player.seat.engine if resampled and len(policies) == 1 else AsPlayed(episode, policies)
    result = asyncio.run(replay(player.stage(sampling), episode, speaking))
    if as_json:
        say_json(
            {"episode": id, "exact": result.exact, "resampled": resampled, "resampled_turns": again, "tokens": result.tokens}
            | {
                "max_logprob_difference": result.max_logprob_difference,
                "differences": result.differences,
                "weights": str(player.weights),
            }
        )
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        say(render(result.episode, width=width, colour=sys.stdout.isatty(), tokens=tokens, decode=player.decode))
        say(verdict(result, how(episode, players)))
        here = player.seat.engine.arithmetic
        if not result.exact and again and computed and here not in computed:
            say(f"the run sampled with {computed[-1]}, this is {here}: last bits may differ for that alone")
    if not result.exact:
        raise typer.Exit(1)


def _players(run: Path, config: RunConfig, episode: Episode) -> dict[int, Player]:
    """The weights that sampled whole turns of an episode, by version, as far as they were kept."""
    found: dict[int, Player] = {}
    for version in sorted({turn.version[0] for turn in episode.turns if turn.version[0] == turn.version[1]}):
        with suppress(CheckpointError):  # not kept
            found[version] = take(run, config, version)
    return found


def _again(episode: Episode, players: Mapping[int, Player]) -> int:
    """Turns that are sampled again."""
    return sum(turn.version[0] == turn.version[1] and turn.version[0] in players for turn in episode.turns)


def how(episode: Episode, players: Mapping[int, Player]) -> str:
    """Which turns are sampled again with which weights, and why others are not."""
    again, crossed = _again(episode, players), sum(turn.version[0] != turn.version[1] for turn in episode.turns)
    gone, folders = len(episode.turns) - again - crossed, " and ".join(str(players[v].weights) for v in sorted(players))
    if not gone and not crossed:
        return f"sampled again with {folders}" if again else "no turn was sampled"
    why: list[str] = []
    if gone:
        why.append(f"no checkpoint holds the weights that played {'it' if gone == len(episode.turns) else _turns(gone)}")
    if crossed:
        why.append(f"the policy got new weights in the middle of {_turns(crossed)}")
    part = f"{again} of {_turns(len(episode.turns))} sampled again with {folders}, for the others the " if again else ""
    return f"{part}recorded completions, as {' and '.join(why)}"


def _turns(count: int) -> str:
    return f"{count} turn{'s' if count != 1 else ''}"


def verdict(result: Replayed, how: str) -> str:
    """One line when all is well; the first difference otherwise."""
    if result.exact:
        gap = "" if result.max_logprob_difference is None else f", largest |Δlogp| {result.max_logprob_difference:g} nats"
        return f"the same bit for bit: {len(result.episode.turns)} turns, {result.tokens} tokens{gap} ({how})"
    lines = [f"DIFFERS ({how})"]
    for d in result.differences:
        where = "episode" if d.turn is None else f"turn {d.turn}"
        lines.append(f"  {where}, {d.what}: stored {d.recorded}; now {d.again}")
    return "\n".join(lines)
