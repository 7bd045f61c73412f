"""`phronesis catalogue`: environments of other makes, each installed apart from everything else."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer

from phronesis.cli.output import AsJson, examples, new_app, say, say_json, table
from phronesis.envs.adapters import catalogues
from phronesis.errors import ConfigError

app = new_app()


@app.callback(
    epilog=examples(
        "phronesis catalogue list",
        "phronesis catalogue setup reasoning-gym",
        "phronesis play reasoning_gym dataset=countdown",
    )
)
def catalogue() -> None:
    """List catalogues of other makes, or install one.

    Each goes into a virtual environment of its own, since their requirements exclude one another. They lie in the folder that
    PHRONESIS_CATALOGUES names.  [default: ~/.cache/phronesis/catalogues]
    """


@app.command("list", epilog=examples("phronesis catalogue list", "phronesis catalogue list --json"))
def list_catalogues(as_json: AsJson = False) -> None:
    """List the catalogues, and which are installed."""
    rows = [
        {**c._asdict(), "ready": catalogues.ready(c.name), "folder": str(catalogues.place(c.name))}
        for c in catalogues.CATALOGUES
    ]
    if as_json:
        say_json(rows)
    else:
        shown = [[str(r["name"]), str(r["folder"]) if r["ready"] else "-", str(r["about"])] for r in rows]
        say(table(shown, ["name", "installed in", "what it is"]))


@app.command("setup", epilog=examples("phronesis catalogue setup reasoning-gym", "phronesis catalogue setup --all"))
def setup(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Catalogues to install.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Install all of them.")] = False,
    python: Annotated[str, typer.Option(help="Interpreter that makes the environment.")] = sys.executable,
) -> None:
    """Install catalogues: the versions that were tested, from the package index. Does nothing where they are installed."""
    chosen = [c.name for c in catalogues.CATALOGUES] if everything else list(names or ())
    if not chosen:
        raise ConfigError(f"name a catalogue, or say --all; there are: {', '.join(c.name for c in catalogues.CATALOGUES)}")
    with ThreadPoolExecutor(2) as pool:  # half of the time is waiting
        for name, made in [(name, pool.submit(catalogues.install, name, python)) for name in chosen]:
            say(f"{name}: {made.result()}")
