"""All that a rollout worker needs to play, besides weights: made once by the driver, pickled, unpacked in the worker."""

from __future__ import annotations

import pickle
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch

from phronesis.chat.detect import format_for
from phronesis.engine.embedded import EmbeddedEngine
from phronesis.engine.vllm.engine import VLLMEngine
from phronesis.engine.vllm.fleet import Fleet
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.models.causal import LanguageModel
from phronesis.models.config import DecoderConfig
from phronesis.models.decoder import Decoder
from phronesis.models.tokenizer import decode, load_tokenizer
from phronesis.reason.react import ReAct
from phronesis.rollout.play import Stage
from phronesis.train.config import RunConfig
from phronesis.train.crew import Job
from phronesis.train.seat import served
from phronesis.train.worlds import world


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make the environment of a run."""

    config: RunConfig
    """Of the run."""
    spec: EnvSpec | None
    """The environment, where the config cannot name it; None where it can, so that only the name travels."""
    path: tuple[str, ...]
    """Folders the driver imports from; those that a node has, too, are imported from there."""


def make_recipe(job: Job) -> Recipe:
    """The recipe of a run's environment.

    Raises:
        ConfigError: it is at hand only, and cannot be pickled.
    """
    if job.at_hand is not None:
        _check_travels(job.at_hand)
    return Recipe(config=job.config, spec=job.at_hand, path=tuple(str(Path(p).resolve()) for p in sys.path))


def spec_of(recipe: Recipe) -> EnvSpec:
    """The environment, made in this process.

    Raises:
        ConfigError: this node cannot make it.
    """
    sys.path += [p for p in recipe.path if p not in sys.path and Path(p).exists()]
    return world(recipe.config) if recipe.spec is None else recipe.spec


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to build what the driver has: environment, model, tokenizer, engine."""

    recipe: Recipe
    """Of the environment, and the run's config."""
    model: DecoderConfig | bytes
    """Sizes of a compact decoder, or any other model pickled."""
    dtype: str
    """Type of the weights."""
    tokenizer: dict[str, bytes]
    """Files of its folder."""
    slots: int
    """Episodes played at once."""
    threads: int
    """Threads to compute with."""
    gpu: bool
    """Whether to sample on the first GPU."""


def make_plan(job: Job) -> Plan:
    """The plan of a run.

    Raises:
        ConfigError: the run's environment is at hand only, and cannot be pickled.
    """
    model = job.policy.decoder
    return Plan(
        recipe=make_recipe(job),
        model=model.config if isinstance(model, Decoder) else pickle.dumps(model),
        dtype=str(model.dtype).removeprefix("torch."),
        tokenizer={p.name: p.read_bytes() for p in sorted(job.tokenizer.iterdir()) if p.is_file()},
        slots=job.cluster.slots,
        threads=max(int(job.cluster.worker.cpus), 1),
        gpu=job.cluster.worker.gpus > 0,
    )


@dataclass(frozen=True, kw_only=True)
class Post:
    """What a worker plays on."""

    stage: Stage
    """Environment, engine, chat format, agent."""
    engine: EmbeddedEngine | VLLMEngine
    """The policy of the stage."""
    model: LanguageModel
    """The engine's own weights."""
    fleet: Fleet | None
    """Servers it samples from; None where it samples in this process."""


def take_post(plan: Plan, folder: Path) -> Post:
    """Builds what the plan says, with weights that still have to come.

    Args:
        plan: of the run.
        folder: for the output of servers that are started.

    Raises:
        ConfigError: this node lacks what the run needs.
    """
    spec, config = spec_of(plan.recipe), plan.recipe.config
    torch.set_num_threads(plan.threads)
    with tempfile.TemporaryDirectory() as files:
        for name, content in plan.tokenizer.items():
            (Path(files) / name).write_bytes(content)
        tokenizer = load_tokenizer(files)
    model = _model(plan)
    if plan.gpu:
        model = model.to("cuda")
    vllm = config.engine.vllm
    fleet = None if vllm is None else Fleet(vllm, folder)
    here = EmbeddedEngine(model, config.engine, decode=partial(decode, tokenizer))
    engine = here if fleet is None else served(fleet, tokenizer, model, 0)
    stage = Stage(
        spec=spec, policy=engine, chat=format_for(tokenizer, config.model.retention), agent=ReAct(),
        vocabulary=model.vocab_size,
    )  # fmt: skip
    return Post(stage=stage, engine=engine, model=model, fleet=fleet)


def _model(plan: Plan) -> LanguageModel:
    if isinstance(plan.model, bytes):
        return cast("LanguageModel", pickle.loads(plan.model))
    return Decoder(plan.model, getattr(torch, plan.dtype))


def _check_travels(spec: EnvSpec) -> None:
    try:
        pickle.dumps(spec)
    except Exception as error:
        raise ConfigError(
            f"environment {spec.name!r} cannot be sent to workers: {error}; name it in the config by an import path "
            '(env.name = "package.module:make"), so that every worker makes its own'
        ) from error
