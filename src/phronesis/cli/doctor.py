"""`phronesis doctor`: is this machine, this chat template, or this config fit for a run?"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from phronesis.chat.doctor import diagnose, render_report
from phronesis.cli import machine, model, sandbox
from phronesis.cli.arguments import AlgorithmName, Changes, Source
from phronesis.cli.output import AsJson, examples, new_app, say, say_json
from phronesis.cli.train import resolve
from phronesis.train import lint

app = new_app()


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "phronesis doctor",
        "phronesis doctor --json",
        "phronesis doctor model path/to/model",
        "phronesis doctor template path/to/model",
        "phronesis doctor config quickstart --algorithm gspo",
        "phronesis doctor sandbox",
    ),
)
def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Report on this machine: versions, processors, threads, memory, disk, and what to change.

    `phronesis doctor model PATH` says how a model would be computed, `phronesis doctor template PATH` whether its chat template
    can be used token-exactly, `phronesis doctor config` whether the settings of a run make sense together, `phronesis doctor
    sandbox` how commands of a policy can be isolated here.
    """
    if context.invoked_subcommand is not None:
        return
    found = machine.inspect()
    if as_json:
        say_json(found)
    else:
        say(machine.render(found))


@app.command(
    "model",
    epilog=examples(
        "phronesis doctor model runs/quickstart-seed0/checkpoints/step-00000040", "phronesis doctor model . --json"
    ),
)
def model_folder(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder that save_pretrained wrote, or a checkpoint.")],
    as_json: AsJson = False,
) -> None:
    """Say what a model folder holds, how the model would be computed and why, and whether its chat template can be used.

    Exit code 1 when the model or its template cannot be used.
    """
    found = model.inspect(path)
    if as_json:
        say_json(found)
    else:
        say(model.render(found))
    if found.computed is None or found.template == "fail":
        raise typer.Exit(1)


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


@app.command(
    "config",
    epilog=examples(
        "phronesis doctor config quickstart",
        "phronesis doctor config my.toml learner.epochs=1",
        "phronesis doctor config quickstart --algorithm glm5_reasoning --json",
    ),
)
def config(
    source: Source,
    changes: Changes = None,
    algorithm: AlgorithmName = None,
    as_json: AsJson = False,
) -> None:
    """Say which settings of a run cannot be right, or are seldom meant, why, and what to change. Takes what `train` takes.

    Exit code 1 when the run would be refused.
    """
    found = lint.lint(resolve(source, changes or [], None, algorithm))
    if as_json:
        say_json({"rules": len(lint.RULES), "findings": found})
    else:
        for finding in found:
            say(f"{finding.severity}  {finding.rule}\n  {finding.reason}.\n  {finding.fix}")
        say(f"{len(lint.RULES)} rules, {len(found)} finding{'' if len(found) == 1 else 's'}")
    if any(finding.severity == "refuse" for finding in found):
        raise typer.Exit(1)


app.command("sandbox", epilog=sandbox.EXAMPLES)(sandbox.sandbox)
