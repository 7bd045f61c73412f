"""`phronesis env`: what there is to play, and whether it keeps its promises."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from phronesis.cli.output import AsJson, examples, new_app, say, say_json, table
from phronesis.config import arguments
from phronesis.env import EnvSpec
from phronesis.envs import registry
from phronesis.envs.adapters.openenv.server import serving
from phronesis.envs.check import render, run_check
from phronesis.errors import ConfigError, UnknownName

app = new_app()


@app.callback(
    epilog=examples(
        "phronesis env list",
        "phronesis env list --json",
        "phronesis env check ledger",
        "phronesis env check my_pkg.my_env:make size=4",
        "phronesis env serve countdown --openenv",
    )
)
def env() -> None:
    """List environments, check that one keeps its promises, or serve one to others."""


@app.command("list", epilog=examples("phronesis env list", "phronesis env list --json"))
def list_environments(as_json: AsJson = False) -> None:
    """List the environments known by name: built-in ones and those of installed packages.

    Your own need no registration: wherever a name is taken, package.module:make works too.
    """
    found = registry.names()
    if as_json:
        say_json([listing._asdict() for listing in found])
    else:
        say(table([[listing.name, listing.description] for listing in found], ["name", "what the agent has to do"]))


@app.command(
    "check",
    epilog=examples(
        "phronesis env check ledger",
        "phronesis env check frozenlake slippery=true",
        "phronesis env check my_pkg.my_env:make --json",
    ),
)
def check_environment(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Environment name or package.module:make.")],
    dials: Annotated[list[str] | None, typer.Argument(metavar="DIAL=VALUE", help="The environment's arguments.")] = None,
    split: Annotated[str, typer.Option(help="Split whose tasks are played.")] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the episodes.")] = 0,
    seconds: Annotated[float, typer.Option(help="Give up after so many seconds.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Play an environment with scripted agents and say which promises it keeps.

    Equal seeds give equal episodes, hidden facts stay hidden, the oracle scores what it should, silence does not pay,
    time limits hold. Exit code 1 when a promise is broken.
    """
    spec = registry.get(name, arguments(dials or []))
    if split not in spec.sizes:
        raise UnknownName("split", split, spec.sizes)
    report = run_check(spec, split=split, seed=seed, seconds=seconds)
    if as_json:
        say_json({"env": report.env, "ok": report.ok, "seconds": report.seconds, "findings": report.findings})
    else:
        say(render(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command(
    "serve",
    epilog=examples("phronesis env serve countdown --openenv", "phronesis env serve guess size=20 --openenv --port 0"),
)
def serve_environment(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Environment name or package.module:make.")],
    dials: Annotated[list[str] | None, typer.Argument(metavar="DIAL=VALUE", help="The environment's arguments.")] = None,
    openenv: Annotated[bool, typer.Option("--openenv", help="In OpenEnv's protocol, over a WebSocket.")] = False,
    port: Annotated[int, typer.Option(help="Of this machine; 0 takes a free one.")] = 8400,
    sessions: Annotated[int, typer.Option(help="Episodes at once.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Serve an environment to clients of other makes on this machine. Ends with Ctrl-C."""
    if not openenv:
        raise ConfigError("say in which protocol to serve: --openenv")
    spec = registry.get(name, arguments(dials or []))
    asyncio.run(_serve(spec, port, sessions, as_json))


async def _serve(spec: EnvSpec, port: int, sessions: int, as_json: bool) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serving(spec, port=port, most=sessions) as address:
        if as_json:
            say_json({"address": address, "env": spec.name})
        else:
            say(f"serving {spec.name} at {address}; an OpenEnv client connects to it. Ctrl-C stops.")
        await stop.wait()
