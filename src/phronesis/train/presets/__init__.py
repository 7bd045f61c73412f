"""Algorithms by name: `phronesis train quickstart --algorithm gspo`, or ``algorithm = "gspo"`` in a TOML file.

A preset replaces the algorithm part of what lies below the place that names it: the recipe, the file it stands in, weaker
files. Settings beside it in the same file, in later files and on the command line win over it. It leaves no trace in the
resolved config but the name of the run; the settings themselves say what is done.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from msgspec.structs import replace

from phronesis import config
from phronesis.config import Table
from phronesis.errors import ConfigError, UnknownName
from phronesis.train.config import RunConfig
from phronesis.train.presets import groups, imitation, objectives, published, turns
from phronesis.train.presets.algorithm import Algorithm

KEY = "algorithm"
"""What names a preset in files and overrides."""

Preset = Callable[..., Algorithm]
"""``preset(run, **ingredients) -> Algorithm``; ingredients are keyword-only texts, settings of ``credit`` or ``lesson`` of the
same name."""

PRESETS: dict[str, Preset] = {
    preset.__name__: preset
    for preset in (
        groups.grpo,
        groups.dr_grpo,
        groups.dapo,
        groups.rloo,
        groups.reinforce,
        groups.reinforce_pp,
        groups.reinforce_pp_baseline,
        groups.lite_ppo,
        groups.gpg,
        groups.opo,
        groups.remax,
        groups.maxrl,
        groups.gdpo,
        groups.otb,
        groups.rae,
        objectives.gspo,
        objectives.gmpo,
        objectives.luspo,
        objectives.cispo,
        objectives.gppo,
        objectives.sapo,
        objectives.dis,
        objectives.icepop,
        objectives.m2po,
        objectives.decoupled_ppo,
        objectives.dppo,
        objectives.vespo,
        turns.turn_returns,
        turns.mt_grpo,
        turns.gigpo,
        turns.vineppo,
        turns.spo,
        turns.treerpo,
        turns.arpo,
        turns.earl,
        turns.empg,
        turns.igpo,
        published.ppo,
        published.sao,
        published.archer,
        published.glm5_reasoning,
        published.glm5_agentic,
        imitation.opd,
        imitation.raft,
        imitation.star,
        imitation.gkd,
        imitation.sdpo,
        imitation.rlag,
        imitation.dpo,
        imitation.step_dpo,
        imitation.step_apo,
    )
}
"""All presets by name."""

REPLACED = ("player", "credit", "critic", "dynamic", "batch", "lesson", "groups", "group_size")
"""Fields of a run that a preset sets."""
REPLACED_LEARNER = ("loss", "epochs", "minibatches", "old", "reset", "restart", "average", "step_size", "baseline")
"""Fields of its learner that a preset sets."""


def names() -> list[str]:
    """Names of all presets."""
    return list(PRESETS)


def summary(name: str) -> str:
    """A preset in one sentence."""
    return inspect.cleandoc(get(name).__doc__ or "").partition("\n")[0]


def explanation(name: str) -> str:
    """All that is said about a preset: the equation in words, the source, published constants, what is ours."""
    return inspect.cleandoc(get(name).__doc__ or "")


def ingredients(name: str) -> list[str]:
    """Settings of ``credit`` or ``lesson`` a preset takes, of which some are needed."""
    return [p.name for p in inspect.signature(get(name)).parameters.values() if p.kind is p.KEYWORD_ONLY]


def markdown() -> str:
    """The presets as a Markdown table, which the documentation holds."""
    head = ["| algorithm | what it does |", "|---|---|"]
    return "\n".join([*head, *(f"| `{name}` | {summary(name)} |" for name in PRESETS)])


def get(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UnknownName: there is none; names near ones.
    """
    if name not in PRESETS:
        raise UnknownName(KEY, name, PRESETS)
    return PRESETS[name]


def apply(name: str, run: RunConfig, **given: str) -> RunConfig:
    """A run with another algorithm, e.g. ``apply("gspo", recipe("quickstart"))``.

    Args:
        name: of a preset.
        run: everything else.
        given: ingredients, e.g. ``teacher`` of opd.

    Raises:
        UnknownName: no preset of that name.
        ConfigError: an ingredient is missing, or the trainer cannot do it.
    """
    return replace(get(name)(run, **given).over(run), name=f"{run.name}-{name}")


def load(files: Sequence[Path] = (), overrides: Sequence[str] = (), base: RunConfig | None = None) -> RunConfig:
    """A run from a recipe, files and overrides as `phronesis.config.load` builds it, in which layers may name an algorithm.

    Raises:
        ConfigError, UnknownName: as `phronesis.config.load` and `apply`.
    """
    layers = config.read_layers(files, overrides)
    table = config.start(RunConfig, base)
    for at, layer in enumerate(layers):
        settings = {key: value for key, value in layer.items() if key != KEY}
        if KEY in layer:
            table = _replaced(table, config.plain(layer)[KEY], layers[at:], _without(base, layers))
        table = config.overlay(RunConfig, table, settings)
    return config.finish(RunConfig, table)


def _replaced(table: Table, name: object, stronger: Sequence[Table], run: RunConfig) -> Table:
    """`table` with the algorithm part of a preset; names it takes are read from the layers it stands in and above."""
    if not isinstance(name, str):
        raise ConfigError(f"{KEY}: expected a name, got {name!r}; phronesis algorithms lists them")
    given: dict[str, str] = {}
    for layer in stronger:
        for section in ("credit", "lesson"):
            settings = config.plain(layer).get(section)
            if isinstance(settings, Mapping):
                fields = cast(Mapping[str, object], settings)
                given |= {key: str(fields[key]) for key in ingredients(name) if key in fields}
    found = config.start(RunConfig, get(name)(run, **given).over(run))
    learner, new = cast(Table, table["learner"]), cast(Table, found["learner"])
    part = {key: found[key] for key in REPLACED}
    part["learner"] = learner | {key: new[key] for key in REPLACED_LEARNER}
    before = table.get("name")
    return table | part | {"name": f"{before}-{name}" if before else name}


def _without(base: RunConfig | None, layers: Sequence[Table]) -> RunConfig:
    """The run as everything but its algorithm says: what a preset may look at (limits, learning rate, group size)."""
    table = config.start(RunConfig, base)
    table.setdefault("name", "unnamed")
    for layer in layers:
        seen = {key: value for key, value in layer.items() if key not in (*REPLACED[:6], KEY)}
        learner = seen.get("learner")
        if isinstance(learner, Mapping):
            kept = cast(Mapping[str, object], learner)
            seen["learner"] = {key: value for key, value in kept.items() if key not in REPLACED_LEARNER}
        table = config.overlay(RunConfig, table, seen)
    return config.finish(RunConfig, table)
