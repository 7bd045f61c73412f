"""A trained policy, taken from a run folder or a model folder, ready to play."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from phronesis.cli.output import warn
from phronesis.config import config_hash, load
from phronesis.env import EnvSpec
from phronesis.errors import CheckpointError, RunFolderError, UserError
from phronesis.models.opening import open_model
from phronesis.models.tokenizer import load_tokenizer
from phronesis.rollout.limits import Sampling
from phronesis.rollout.play import Stage
from phronesis.store import Layout, Run
from phronesis.train import checkpoint
from phronesis.train.config import RunConfig
from phronesis.train.seat import Seat, seat
from phronesis.train.worlds import world


@dataclass(frozen=True, kw_only=True)
class Player:
    """A policy with everything an episode needs."""

    config: RunConfig
    """The run's settings; for a model folder the defaults, with the overrides."""
    spec: EnvSpec
    """What is played."""
    seat: Seat
    """Who plays."""
    weights: Path
    """Where the weights came from."""
    decode: Callable[[int], str]
    """Text of a token id."""

    def stage(self, sampling: Sampling) -> Stage:
        """Everything an episode needs besides its task and seed."""
        return self.seat.stage(self.spec, self.config, sampling)


def settings(source: Path, changes: list[str]) -> RunConfig:
    """A run's settings with overrides; for a model folder the defaults with overrides."""
    layout = Layout(source)
    if layout.is_run:
        return load(RunConfig, overrides=changes, base=stored(source))
    return load(RunConfig, overrides=changes, base=RunConfig(name=source.resolve().name or "model"))


def stored(run: Path) -> RunConfig:
    """The settings a run was started with; says so where its file has changed since.

    Raises:
        RunFolderError: the file cannot be read, or does not hold the settings of a run.
    """
    try:
        config = load(RunConfig, [Layout(run).config])
    except UserError as error:
        raise RunFolderError(
            f"the settings of the run in {str(run)!r} cannot be read: {error}; restore 'config.toml' from a copy of the run"
        ) from error
    started, now = Run.open(run).code().get("config_hash"), config_hash(config)
    if started is not None and started != now:
        warn(
            f"'config.toml' of the run in {str(run)!r} is not the one it was started with (hash {now}, was {started}): it was "
            "edited or damaged, or another version wrote it; it is used as it is"
        )
    return config


def take(source: Path, config: RunConfig, step: int | None = None) -> Player:
    """The policy of a run (its newest checkpoint, or the one of `step`) or of a model folder.

    Raises:
        CheckpointError: there are no such weights; names those that there are.
        UserError: the environment or the chat template cannot be used.
    """
    spec = world(config)
    weights = find(source, step)
    tokenizer = load_tokenizer(weights)
    known: dict[int, str] = {}

    def decode(token: int) -> str:
        if token not in known:
            known[token] = str(tokenizer.decode([token]))  # pyright: ignore[reportUnknownMemberType]
        return known[token]

    version = step_of(weights) if Layout(source).is_run else 0
    alone = replace(config, asynchrony=None)  # nobody learns, so the engine needs no weights of its own
    policy = seat(alone, tokenizer, open_model(weights, config.model.generic), version=version)
    return Player(config=config, spec=spec, seat=policy, weights=weights, decode=decode)


def find(source: Path, step: int | None) -> Path:
    """The folder with the weights and the tokenizer."""
    layout = Layout(source)
    if not layout.is_run:
        if not source.is_dir():
            raise CheckpointError(
                f"no run or model folder {str(source)!r}; name one that `phronesis train` or `save_pretrained` wrote"
            )
        if step is not None:
            raise CheckpointError(f"{str(source)!r} is a model, not a run; leave out --step")
        return source
    kept = {step_of(path): path for path in checkpoint.steps(layout.checkpoints)}
    if not kept:
        raise CheckpointError(f"the run in {str(source)!r} has no checkpoint yet")
    chosen = max(kept) if step is None else step
    if chosen not in kept:
        steps = ", ".join(map(str, kept))
        raise CheckpointError(f"the run in {str(source)!r} has no checkpoint of step {chosen}; it has {steps}")
    return kept[chosen]


def step_of(weights: Path) -> int:
    """The training step in a checkpoint folder's name; 0 where there is none.

    >>> step_of(Path("checkpoints/step-00000012"))
    12
    """
    digits = weights.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
