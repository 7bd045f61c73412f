"""`phronesis status`: what a run does, what it waits for, and what to do when it is stuck, dead or done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from phronesis.alive.verdict import PATIENCE, State, Verdict, look
from phronesis.cli.output import AsJson, examples, new_app, say, say_json
from phronesis.errors import ConfigError
from phronesis.view.alive import page

app = new_app()

_COLOURS: dict[State, str] = {
    "finished": "green",
    "running": "green",
    "starting": "cyan",
    "waiting": "yellow",
    "interrupted": "yellow",
    "unseen": "yellow",
}


@app.command(
    epilog=examples(
        "phronesis status runs/quickstart-seed0",
        "phronesis status runs/quickstart-seed0 --patience 120",
        "phronesis status runs/quickstart-seed0 --json",
    )
)
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    patience: Annotated[
        float, typer.Option(help="Seconds without a sign of life that are nothing unusual, e.g. as long as a tool may take.")
    ] = PATIENCE,
    as_json: AsJson = False,
) -> None:
    """Say what a run does and what it waits for.

    A run that is stuck explains itself: which calls its episodes await, counted, and where its threads stand. One that is dead
    says how to go on. Exit codes: 0 finished, or at work; 3 failed; 4 interrupted or killed; 5 wedged, or stopped by a signal;
    6 waiting for longer than the patience; 7 on a machine that cannot be seen from here; 2 no run.
    """
    if patience <= 0:
        raise ConfigError(f"--patience must be above 0, got {patience!r}")
    verdict = look(run, patience)
    if as_json:
        say_json(verdict)
    else:
        show(verdict)
    if verdict.exit_code:
        raise typer.Exit(verdict.exit_code)


def show(verdict: Verdict) -> None:
    """The page, its first line in colour on a terminal."""
    first, _, rest = page(verdict).partition("\n")
    if sys.stdout.isatty():
        Console().print(Text(first, style=f"bold {_COLOURS.get(verdict.state, 'red')}"))
        say(rest)
    else:
        say(f"{first}\n{rest}")
