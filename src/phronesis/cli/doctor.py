"""`phronesis doctor`: is this machine, or this chat template, fit for a run?"""

from __future__ import annotations

import typer

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
