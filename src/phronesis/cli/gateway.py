"""`phronesis gateway`: serve a policy to agents of any make, and record what they do with it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from phronesis.alive.watchdog import Watchdog
from phronesis.cli.output import AsJson, examples, new_app, say, say_json
from phronesis.cli.player import Player, settings, take
from phronesis.errors import ConfigError
from phronesis.gateway import Book, GatewayConfig, serving
from phronesis.log import doing, setup
from phronesis.records import Episode
from phronesis.store import Layout
from phronesis.store.run import Run, RunWriter
from phronesis.train.config import RunConfig
from phronesis.train.outside import text_of, token

app = new_app()


@app.command(
    epilog=examples(
        "phronesis gateway runs/quickstart-seed0",
        "phronesis gateway path/to/model --port 0 --out runs/recorded",
        "phronesis gateway runs/mine limits.max_turns=50 gateway.idle_seconds=60",
        "PHRONESIS_GATEWAY_TOKEN=secret phronesis gateway runs/mine --host 0.0.0.0",
    )
)
def gateway(
    source: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a Hugging Face model folder.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="PATH=VALUE", help="Settings to change.")] = None,
    host: Annotated[str | None, typer.Option(help="Shorthand for gateway.host=ADDRESS.")] = None,
    port: Annotated[int | None, typer.Option(help="Shorthand for gateway.port=N; 0 takes a free one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder for what is recorded.  [default: runs/gateway-NAME]")] = None,
    step: Annotated[int | None, typer.Option(help="Checkpoint of this training step.  [default: newest]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Add to what the folder holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve a policy over the APIs of OpenAI and Anthropic, and record token-exactly what agents do with it.

    An agent changes its base URL and nothing else. POST /episodes gives one for each episode; POST /episodes/ID/reward and
    /finish say what it was worth. Listens at loopback unless told otherwise; ends with Ctrl-C.
    """
    config = _config(settings(source, changes or []), host, port)
    secret = token()
    assert config.gateway is not None
    config.gateway.validate(secret)
    folder = out or Path("runs") / f"gateway-{config.name}"
    if Layout(folder).is_run and not resume:
        raise ConfigError(f"{str(folder)!r} holds a run already; add to it with --resume, or name another folder with --out")
    player = take(source, config, step)
    setup(as_json=as_json or None)
    marks = {spec.name: spec.success for spec in player.spec.parts.values() or (player.spec,)}
    with Run.create(folder, config, resume=resume, success=marks) as writer, Watchdog(folder, "gateway") as watchdog:

        def ready(address: str) -> None:
            note = {"address": address, "folder": str(folder), "weights": str(player.weights)}
            if as_json:
                say_json(note)
            else:
                say(f"serving {player.weights} at {address}; recording to {folder}\n{_HELP.format(address=address)}")

        with doing("gateway", lambda: "agents outside", computes=False):
            counts = asyncio.run(watchdog.guard(serve(player, config, writer, secret, ready)))
        writer.event("gateway", "stopped", **counts)
    (say_json if as_json else _sum_up)(counts)


def _sum_up(counts: dict[str, int]) -> None:
    """What was recorded, in one line."""
    said = [f"{counts.get('episodes', 0)} episodes recorded"]
    said += [f"{counts[name]} {name}" for name in ("unrewarded", "idle", "strays") if counts.get(name)]
    say("; ".join(said))


_HELP = """\
  curl -X POST {address}/episodes -d '{{"task": "my-task"}}'      opens an episode and returns its base_url
  client = OpenAI(base_url=episode["base_url"], api_key="any")
  curl -X POST {address}/episodes/ID/finish -d '{{"reward": 1}}'  ends it
Ctrl-C stops."""


def _config(config: RunConfig, host: str | None, port: int | None) -> RunConfig:
    """The settings with a gateway."""
    chosen = config.gateway or GatewayConfig()
    chosen = replace(chosen, host=chosen.host if host is None else host, port=chosen.port if port is None else port)
    return replace(config, gateway=chosen)


async def serve(
    player: Player, config: RunConfig, writer: RunWriter, secret: str | None, ready: Callable[[str], None]
) -> dict[str, int]:
    """Serves until the process is told to stop; what was counted."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def store(episode: Episode) -> None:
        kind = "gateway" if episode.task.split == "train" else episode.task.split
        writer.append(episode, kind)

    seat = player.seat
    limits = config.limits
    if limits.context is None:
        limits = replace(limits, context=seat.decoder.max_positions)
    book = Book(
        seat.engine,
        seat.chat,
        config=config.gateway,
        limits=limits,
        on_episode=store,
        text=text_of(seat),
        seed=config.seed,
    )
    async with serving(book, secret) as address:
        writer.event("gateway", f"agents reach it at {address}", address=address, pid=os.getpid())
        ready(address)
        await stop.wait()
    return dict(book.counts)
