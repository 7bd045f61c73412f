"""`phronesis export`: a model folder, or an adapter beside its base, out of a run or another model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from phronesis.cli.output import AsJson, examples, new_app, say, say_json
from phronesis.cli.player import find, stored
from phronesis.errors import ConfigError, UnknownName
from phronesis.store import Layout
from phronesis.train.export import Exported, Form, merge_into
from phronesis.train.export import export as write

app = new_app()

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


@app.command(
    epilog=examples(
        "phronesis export runs/quickstart-seed0 my-model",
        "phronesis export runs/quickstart-seed0 my-model --dtype bfloat16 --shard 2GB",
        "phronesis export runs/with-lora my-adapter",
        "phronesis export runs/with-lora my-model --merge",
        "phronesis export path/to/model my-model --adapter path/to/adapter",
    )
)
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run folder, a checkpoint or a model folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    merge: Annotated[bool, typer.Option("--merge", help="One model, with the run's adapters in it.")] = False,
    adapter: Annotated[Path | None, typer.Option(help="A peft adapter folder to merge into MODEL.")] = None,
    step: Annotated[int | None, typer.Option(help="A checkpoint other than the newest.")] = None,
    dtype: Annotated[str, typer.Option(help=f"Type of the weights: {', '.join(TYPES)}.")] = "float32",
    shard: Annotated[str | None, typer.Option(help="Largest size of a file, e.g. 500MB or 2GB.  [default: one file]")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model that transformers and vLLM load as it is.

    Of a run that trains adapters, OUT/adapter is a folder for peft and OUT/base the model it belongs to (unless the run was
    given one); --merge writes one model instead. Tokenizer, chat template and generation settings go along.
    """
    if dtype not in TYPES:
        raise UnknownName("type", dtype, TYPES)
    form = Form(TYPES[dtype], None if shard is None else size(shard))
    if adapter is not None:
        done = merge_into(find(source, step), adapter, out, form)
    else:
        base = stored(source).model.path if Layout(source).is_run else None
        done = write(find(source, step), out, merge=merge, base=base, form=form)
    if as_json:
        say_json({name: None if value is None else str(value) for name, value in done._asdict().items()})
    else:
        say(told(done))


def told(done: Exported) -> str:
    """What was written and what loads it."""
    lines: list[str] = []
    if done.adapter is not None:
        lines.append(f"adapter: {done.adapter}  (peft: PeftModel.from_pretrained(base, {str(done.adapter)!r}))")
        lines.append(f"base: {done.base}")
    else:
        lines.append(f"model: {done.model}  (transformers: AutoModelForCausalLM.from_pretrained({str(done.model)!r}))")
        lines.append(f"serve it: vllm serve {done.model}")
    return "\n".join(lines)


def size(text: str) -> int:
    """Bytes of a size with a decimal unit.

    >>> size("2GB"), size("500kb")
    (2000000000, 500000)
    """
    number, unit = text[:-2], text[-2:].upper()
    if unit not in _UNITS or not number.isdecimal() or int(number) < 1:
        raise ConfigError(f"size {text!r} must be a whole number with one of {', '.join(_UNITS)}, e.g. 2GB")
    return int(number) * _UNITS[unit]
