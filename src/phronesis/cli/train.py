"""`phronesis train`: a recipe, a TOML file or an unfinished run, with overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from phronesis.cli.arguments import AlgorithmName, Changes, Source
from phronesis.cli.output import AsJson, complain, examples, new_app, say, say_json
from phronesis.cli.player import stored
from phronesis.cli.report import write
from phronesis.cli.watch import Watch
from phronesis.cluster import LOCAL, hiring
from phronesis.config import to_toml
from phronesis.errors import ConfigError
from phronesis.gateway import GatewayConfig
from phronesis.store import Layout
from phronesis.train import job, presets, recipes
from phronesis.train.config import RunConfig
from phronesis.train.workers import ClusterConfig

app = new_app()


@app.command(
    epilog=examples(
        "phronesis train quickstart",
        "phronesis train quickstart --seed 3 --out runs/mine",
        "phronesis train quickstart steps=60 learner.optimizer.lr=3e-4",
        "phronesis train quickstart --algorithm gspo",
        "phronesis train quickstart --algorithm dapo learner.loss.objective.eps_high=0.3",
        "phronesis train quickstart my.toml env.args.difficulty=3",
        "phronesis train my.toml --from-gateway model.path=path/to/model gateway.port=9000",
        "phronesis train quickstart --cluster local asynchrony.staleness=1",
        "phronesis train my.toml --show",
        "phronesis train runs/mine --resume",
    )
)
def train(
    source: Source,
    changes: Changes = None,
    algorithm: AlgorithmName = None,
    seed: Annotated[int | None, typer.Option(help="Shorthand for seed=N.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/NAME-seedN]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run, bit for bit.")] = False,
    from_gateway: Annotated[
        bool, typer.Option("--from-gateway", help="Agents outside play the episodes, at gateway.host and gateway.port.")
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="ADDRESS",
            help="Workers of a Ray cluster play: local starts one here, auto or HOST:PORT joins one.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the resolved config and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train an agent: play, credit, learn, and evaluate before and after.

    Settings come from the recipe or file, then further files, then PATH=VALUE overrides; an unknown one is an error that
    names the nearest. An algorithm replaces credit, loss and group settings of the recipe, and what you set wins over it.
    Everything is written to the run folder while it happens; report.html is made at the end. With --from-gateway the run
    serves its policy, hands its tasks out and learns from what your own agent does with them. With --cluster worker processes
    play, on this machine or others.
    """
    config = resolve(source, changes or [], seed, algorithm)
    if from_gateway and config.gateway is None:
        config = replace(config, gateway=GatewayConfig())
    if cluster is not None and config.cluster is None:
        config = replace(config, cluster=ClusterConfig())
    if show:
        config.validate()
        say(to_toml(config).rstrip())
        return
    folder = out or default_folder(source, config)
    try:
        with Watch(as_json) as watch:
            summary = job.run(config, folder, resume=resume, listener=watch, hire=hiring(cluster or LOCAL))
    except KeyboardInterrupt:
        complain(interrupted(folder))
        raise typer.Exit(130) from None
    page, _ = write(folder)
    if as_json:
        say_json(summary)
    else:
        say(summary.line)
        say(f"report: {page}")


def resolve(source: str, changes: list[str], seed: int | None = None, algorithm: str | None = None) -> RunConfig:
    """The config that a command line means. See `phronesis.train.presets` for where an algorithm comes in.

    Raises:
        UnknownName: no recipe or setting of that name.
        ConfigError: a file or value that cannot be used.
    """
    files = [Path(text) for text in changes if text.endswith(".toml") and "=" not in text]
    overrides = [text for text in changes if "=" in text]
    strange = [text for text in changes if "=" not in text and not text.endswith(".toml")]
    if strange:
        raise ConfigError(f"{strange[0]!r} is neither a setting (path=value) nor a config file (*.toml)")
    if seed is not None:
        overrides.append(f"seed={seed}")
    if algorithm is not None:
        overrides.append(f"{presets.KEY}={algorithm}")
    if source.endswith(".toml"):
        return presets.load([Path(source), *files], overrides)
    if source not in recipes.names() and Layout(Path(source)).is_run:
        return presets.load(files, overrides, stored(Path(source)))
    return presets.load(files, overrides, recipes.get(source))


def default_folder(source: str, config: RunConfig) -> Path:
    """Where a run goes when nobody says: back to its folder, or to a new one named after it."""
    if Layout(Path(source)).is_run:
        return Path(source)
    return Path("runs") / f"{config.name}-seed{config.seed}"


def interrupted(folder: Path) -> str:
    """What to tell a person who stopped a run."""
    if not Layout(folder).is_run:
        return "interrupted before anything was written"
    return f"interrupted; everything so far is in {str(folder)!r}. Continue with: phronesis train {folder} --resume"
