"""`phronesis env`: what there is to play, and whether it keeps its promises."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from phronesis.cli.env_serve import as_openenv, as_service
from phronesis.cli.output import AsJson, examples, new_app, say, say_json, table
from phronesis.config import arguments
from phronesis.envs import registry
from phronesis.envs.check import render, run_check
from phronesis.envs.services.serve import ServeConfig
from phronesis.errors import ConfigError, UnknownName

app = new_app()


@app.callback(
    epilog=examples(
        "phronesis env list",
        "phronesis env list --json",
        "phronesis env check ledger",
        "phronesis env check my_pkg.my_env:make size=4",
        "phronesis env serve ledger --register http://127.0.0.1:8600",
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
    epilog=examples(
        "phronesis env serve ledger max_difficulty=1 --register http://127.0.0.1:8600",
        "phronesis env serve countdown --openenv",
        "phronesis env serve guess size=20 --openenv --port 0",
    ),
)
def serve_environment(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Environment name or package.module:make.")],
    dials: Annotated[list[str] | None, typer.Argument(metavar="DIAL=VALUE", help="The environment's arguments.")] = None,
    register: Annotated[
        str | None, typer.Option("--register", metavar="URL", help="Play for the run whose registrar is there.")
    ] = None,
    openenv: Annotated[bool, typer.Option("--openenv", help="In OpenEnv's protocol, over a WebSocket.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="0 takes a free one; that, or 8400 for OpenEnv.")] = None,
    url: Annotated[str | None, typer.Option(help="Where the run reaches this service, if not found out.")] = None,
    capacity: Annotated[int, typer.Option(help="Episodes at once.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Serve an environment: to training runs, or to clients of OpenEnv. Ends with Ctrl-C.

    For runs whose environment is "served": the service registers, plays the episodes it is given, registers again when the run
    comes back, and on SIGTERM finishes what it plays.
    """
    args = arguments(dials or [])
    if openenv:
        if register is not None or url is not None or host != "127.0.0.1":
            raise ConfigError("OpenEnv knows no registration and no password: leave out --register, --url and --host")
        asyncio.run(as_openenv(registry.get(name, args), 8400 if port is None else port, capacity, as_json))
        return
    if register is None and port is None:
        raise ConfigError("say for whom to serve: --register URL for a run, --port N for runs that know it, or --openenv")
    config = ServeConfig(register=register, host=host, port=port or 0, url=url, capacity=capacity)
    asyncio.run(as_service(name, args, config, as_json))
