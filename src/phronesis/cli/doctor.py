"""`phronesis doctor`: is this machine, or this chat template, fit for a run?"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from phronesis.chat.doctor import diagnose, render_report
from phronesis.cli import machine
from phronesis.cli.output import AsJson, examples, new_app, say, say_json

app = new_app()


@app.callback(
    invoke_without_command=True,
    epilog=examples("phronesis doctor", "phronesis doctor --json", "phronesis doctor template path/to/model"),
)
def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Report on this machine: versions, processors, threads, memory, disk, and what to change.

    `phronesis doctor template PATH` says whether a model's chat template can be used token-exactly.
    """
    if context.invoked_subcommand is not None:
        return
    found = machine.inspect()
    if as_json:
        say_json(found)
    else:
        say(machine.render(found))


@app.command(
    "template",
    epilog=examples(
        "phronesis doctor template runs/quickstart-seed0/checkpoints/step-00000040", "phronesis doctor template . --json"
    ),
)
def template(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder with a tokenizer, e.g. a checkpoint.")],
    as_json: AsJson = False,
) -> None:
    """Say whether a model's chat template can be used token-exactly, and what to do when not.

    Exit code 1 when it cannot.
    """
    formats = logging.getLogger("phronesis.chat")
    level = formats.level
    formats.setLevel(logging.ERROR)  # what the formats warn of stands in the report, once
    try:
        report = diagnose(path)
    finally:
        formats.setLevel(level)
    if as_json:
        say_json(
            {
                "name": report.name,
                "verdict": report.verdict,
                "family": report.family,
                "retention": report.retention,
                "findings": report.findings,
            }
        )
    else:
        say(render_report(report))
    if report.verdict == "fail":
        raise typer.Exit(1)
