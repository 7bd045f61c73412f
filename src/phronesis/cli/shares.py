"""`phronesis shares`: how much of a run each source of tasks makes up, and other shares for a run that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phronesis.cli.output import AsJson, examples, new_app, say, say_json, table
from phronesis.cli.player import stored
from phronesis.data.mixture import Shares
from phronesis.errors import ConfigError, UnknownName
from phronesis.store import Run
from phronesis.train import steering
from phronesis.train.config import RunConfig

app = new_app()


@app.command(
    epilog=examples(
        "phronesis shares runs/multitask-seed0",
        "phronesis shares runs/multitask-seed0 wiki=0.5 ledger=0.2",
        "phronesis shares runs/multitask-seed0 --json",
    )
)
def shares(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run with several sources.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="SOURCE=SHARE", help="Shares to ask for.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the shares of a run's sources, or ask for others.

    A run that is training takes them over after its present step; one that is resumed later, when it begins. Sources that are
    not named keep their weight beside the new ones. Without SOURCE=SHARE: the shares asked for, and those of the groups
    learned from so far.
    """
    config = stored(run)
    if not config.sources:
        raise ConfigError(f"the run in {str(run)!r} plays one environment, {config.env.name!r}; it has no shares")
    wanted = dict(_read(change, config) for change in changes or [])
    found = _found(run, config)
    if wanted:
        Shares({name: s["share"] for name, s in found.items()}).change(wanted)  # refuses what the run would refuse
        steering.ask(run, wanted)
    if as_json:
        say_json({"asked": wanted, "sources": found})
        return
    rows = [[n, f"{s['share']:.1%}", f"{s['learned']:.1%}", f"{s['groups']:.0f}"] for n, s in found.items()]
    say(table(rows, ["source", "share", "learned from so far", "groups"]))
    if wanted:
        say(f"asked for: {', '.join(f'{n} {w:g}' for n, w in wanted.items())}; taken over after the present step")


def _read(change: str, config: RunConfig) -> tuple[str, float]:
    """One SOURCE=SHARE.

    Raises:
        ConfigError: it is not of this form, or the share is impossible.
        UnknownName: the run has no such source.
    """
    name, equals, number = change.partition("=")
    if name not in config.sources and equals:
        raise UnknownName("source", name, config.sources)
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not equals or not 0 <= share < float("inf"):
        raise ConfigError(f"{change!r} is not SOURCE=SHARE with a share of at least 0, e.g. {next(iter(config.sources))}=0.5")
    return name, share


def _found(folder: Path, config: RunConfig) -> dict[str, dict[str, float]]:
    """By source: its share now, its share of what was learned from, its groups."""
    with Run.open(folder) as run:
        steps, events = run.steps(), run.events()
    groups = {name: sum(s.values.get(f"source/{name}/groups") or 0.0 for s in steps) for name in config.sources}
    total, whole = sum(groups.values()), sum(s.share for s in config.sources.values())
    now = {name: source.share / whole for name, source in config.sources.items()}
    for event in events:
        if event.kind == "shares":
            now |= {
                k.removeprefix("share_"): float(v) for k, v in event.fields.items() if k.startswith("share_") and v is not None
            }
    return {
        name: {"share": now[name], "learned": groups[name] / total if total else 0.0, "groups": groups[name]}
        for name in config.sources
    }
