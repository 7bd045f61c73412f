"""`phronesis report`: one self-contained page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phronesis.cli.output import AsJson, examples, new_app, say, say_json, warn
from phronesis.store import Run
from phronesis.view import report as page
from phronesis.view.folder import load

app = new_app()


@app.command(
    epilog=examples(
        "phronesis report runs/quickstart-seed0",
        "phronesis report runs/quickstart-seed0 --json",
        "xdg-open $(phronesis report runs/quickstart-seed0)",
    )
)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; it may still be in training.")],
    as_json: AsJson = False,
) -> None:
    """Write a run's report.html and print where it is.

    The page needs no network: curves with units, success by difficulty, episodes worth reading. With --json the run's
    summary, and what could not be read, are printed too.
    """
    with Run.open(run) as opened:
        path, notes = write(run)
        if not as_json:
            say(str(path))
            return
        damage = opened.damage()
        counts: dict[str, int] = {}
        for row in opened.rows():
            counts[row.kind] = counts.get(row.kind, 0) + 1
        say_json(
            {"report": str(path), "active": opened.active, "episodes": counts, "damage": damage}
            | {"notes": notes, "summary": opened.summary()}
        )


def write(folder: Path) -> tuple[Path, list[str]]:
    """Writes the page and says, on standard error too, what of the folder could not be read; the page and those notes."""
    run = load(folder)
    for note in run.notes:
        warn(f"{str(folder)!r}: {note}")
    return page.write(folder, run), run.notes
