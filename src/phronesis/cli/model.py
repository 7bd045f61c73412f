"""What `phronesis doctor model` says of a folder: what is in it, how it would be computed, whether its template works."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

from msgspec import Struct

from phronesis.chat.doctor import diagnose
from phronesis.engine.native.compute import MOST_PARAMETERS, obstacle
from phronesis.errors import CheckpointError, TemplateError, UnsupportedModel
from phronesis.models import checkpoint, generic
from phronesis.models.files import CONFIG, read_headers, read_json, weight_files

TRIED = 1 << 28
"""Larger models are judged by their config alone; smaller ones are really loaded."""


class ModelReport(Struct, frozen=True, kw_only=True):
    """A model folder in words and numbers."""

    architecture: str
    """As transformers calls it."""
    parameters: int
    """Numbers in the weights."""
    bytes: int
    """Of the weights."""
    types: dict[str, int]
    """Numbers by their type, as safetensors names it."""
    files: int
    """Files the weights are in."""
    positions: int | None
    """Longest sequence, in tokens; None when the model was not opened."""
    vocabulary: int | None
    """Ids the model knows; None when it was not opened."""
    computed: str | None
    """``compiled``, ``pytorch`` or ``transformers``; None when it cannot be used."""
    why: str
    """The reason; empty where nothing stands in the way of the fastest."""
    template: str
    """Verdict on the chat template: ``ok``, ``warn`` or ``fail``."""
    template_note: str
    """What the verdict rests on."""


def inspect(path: Path) -> ModelReport:
    """Looks at a model folder. The weights are read where the model is small enough to be tried.

    Raises:
        CheckpointError: the files are missing or damaged.
    """
    if not path.is_dir():
        raise CheckpointError(f"no model folder at {str(path)!r}; give the folder that save_pretrained wrote")
    fields = read_json(path / CONFIG)
    files = weight_files(path)
    headers = [header for file in files for header in read_headers(file)]
    kinds: Counter[str] = Counter()
    for header in headers:
        kinds[header.kind] += prod(header.shape)
    size = sum(kinds.values())
    positions, vocabulary, computed, why = _path(path, size)
    verdict, note = _template(path)
    return ModelReport(
        architecture=str(fields.get("model_type")), parameters=size, bytes=sum(file.stat().st_size for file in files),
        types=dict(kinds), files=len(files), positions=positions, vocabulary=vocabulary, computed=computed, why=why,
        template=verdict, template_note=note,
    )  # fmt: skip


def render(report: ModelReport) -> str:
    """The report as people read it."""
    types = ", ".join(f"{kind} {count:,}" for kind, count in report.types.items())
    how = {
        "compiled": "compact decoder with the compiled step",
        "pytorch": "compact decoder with PyTorch operations",
        "transformers": "generic path through transformers: no compiled step, no batched decoding, no LoRA, no critic",
        None: "cannot be used",
    }[report.computed]
    lines = [
        f"architecture  {report.architecture}",
        f"parameters    {report.parameters:,} ({types})",
        f"files         {report.files}, {report.bytes:,} bytes",
    ]
    if report.positions is not None:
        lines.append(f"sizes         {report.positions:,} positions, {report.vocabulary:,} ids")
    lines += [f"computed by   {how}", *([f"              because {report.why}"] if report.why else [])]
    return "\n".join([*lines, f"template      {report.template}: {report.template_note}"])


def _path(path: Path, size: int) -> tuple[int | None, int | None, str | None, str]:
    """Positions, vocabulary, how it is computed and why."""
    try:
        config = checkpoint.read_config(path)
    except UnsupportedModel as reason:
        return _generic(path, size, str(reason))
    sizes = config.max_positions, config.vocab_size
    if size > TRIED:
        return (*sizes, "pytorch", f"the model has {size:,} parameters, the compiled step takes {MOST_PARAMETERS:,}")
    obstructed = obstacle(checkpoint.load(path))
    return (*sizes, "compiled" if obstructed is None else "pytorch", obstructed or "")


def _generic(path: Path, size: int, reason: str) -> tuple[int | None, int | None, str | None, str]:
    if size > TRIED:
        return None, None, "transformers", f"{reason} (not tried: {size:,} parameters)"
    try:
        model = generic.load(path)
    except UnsupportedModel as other:
        return None, None, None, f"{reason}; nor through transformers: {other}"
    return model.max_positions, model.vocab_size, "transformers", reason


def _template(path: Path) -> tuple[str, str]:
    try:
        report = diagnose(path)
    except (CheckpointError, TemplateError) as error:
        return "fail", str(error)
    worst = [f.explanation for f in report.findings if f.verdict == report.verdict and report.verdict != "ok"]
    return report.verdict, worst[0] if worst else f"family {report.family}"
