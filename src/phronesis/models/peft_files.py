"""Adapters as peft writes them: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

peft itself is not needed, neither to read nor to write. The rule this module keeps: an adapter whose config asks for more than
plain low-rank pairs is refused, since leaving that out would change the model silently.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import cast

from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

from phronesis.errors import CheckpointError
from phronesis.models.files import read_json, read_tensors, write_json
from phronesis.models.lora import ALL_TARGETS, Adapter, Factors

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_ADVICE = "merge the adapter with peft (merge_and_unload) and use the result"
_A, _B = ".lora_A.weight", ".lora_B.weight"
_PLAIN: dict[str, object] = {
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "lora_bias": False,
    "trainable_token_indices": None,
    "target_parameters": None,
    "use_qalora": False,
}
"""Fields of a peft config and the values under which the pairs are all there is."""


def save(adapter: Adapter, path: str | Path, base: str | None = None) -> None:
    """Writes an adapter folder that ``PeftModel.from_pretrained(model, path)`` loads.

    Args:
        adapter: what to write.
        path: folder, made if missing.
        base: name or folder of the base model, for the reader's information; peft's ``AutoPeftModel`` loads it from there.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{_PREFIX}{m}{_A}": f.a.detach().cpu().contiguous() for m, f in adapter.factors.items()}
    tensors |= {f"{_PREFIX}{m}{_B}": f.b.detach().cpu().contiguous() for m, f in adapter.factors.items()}
    whole = float(adapter.alpha).is_integer()
    fields: dict[str, object] = {
        **_PLAIN,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": int(adapter.alpha) if whole else adapter.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(adapter.targets),
        "inference_mode": True,
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        draft = Path(temporary)
        save_file(tensors, draft / WEIGHTS, metadata={"format": "pt"})
        write_json(draft / CONFIG, fields)
        for file in (draft / WEIGHTS, draft / CONFIG):
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
            file.replace(folder / file.name)


def load(path: str | Path) -> Adapter:
    """Reads an adapter folder that peft or `save` wrote.

    Raises:
        CheckpointError: a file is missing or damaged, a tensor has no partner or an unknown name, or the adapter is of another
            kind than plain LoRA on matrices of the layers. The message names the file and what to do.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"no adapter folder at {str(folder)!r}; give the folder that holds {CONFIG!r}")
    file = folder / CONFIG
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; give a folder that peft's save_pretrained wrote")
    fields = read_json(file)
    if fields.get("peft_type") != "LORA":
        raise CheckpointError(f"{file}: peft_type {fields.get('peft_type')!r} is not supported; expected 'LORA'")
    for name, plain in _PLAIN.items():
        value = fields.get(name)
        if value not in (plain, None) and value:
            raise CheckpointError(f"{file}: {name} = {value!r} is not supported; {_ADVICE}")
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(f"{file}: r {rank!r} and lora_alpha {alpha!r} must be numbers above 0; save the adapter again")
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder / WEIGHTS} is missing; save the adapter again with safe_serialization")
    factors = _factors(folder / WEIGHTS, rank)
    kinds = {module.rpartition(".")[2] for module in factors}
    strange = sorted(kinds - set(ALL_TARGETS))
    if strange:
        raise CheckpointError(
            f"{folder / WEIGHTS}: adapters of {', '.join(strange)} are not supported (supported: {', '.join(ALL_TARGETS)}); "
            f"{_ADVICE}"
        )
    return Adapter(rank, float(cast("float", alpha)), tuple(t for t in ALL_TARGETS if t in kinds), factors)


def _factors(file: Path, rank: int) -> dict[str, Factors]:
    found = dict(read_tensors(file))
    factors: dict[str, Factors] = {}
    for name in sorted(found):
        if not name.startswith(_PREFIX) or not name.endswith((_A, _B)):
            raise CheckpointError(f"{file}: tensor {name!r} belongs to no plain LoRA pair; {_ADVICE}")
        if name.endswith(_B):
            continue
        module = name.removeprefix(_PREFIX).removesuffix(_A)
        partner = f"{_PREFIX}{module}{_B}"
        if partner not in found:
            raise CheckpointError(f"{file}: tensor {partner!r} is missing; save the adapter again")
        pair = Factors(found[name].float(), found[partner].float())
        if pair.a.ndim != 2 or pair.b.ndim != 2 or pair.a.shape[0] != rank or pair.b.shape[1] != rank:
            raise CheckpointError(f"{file}: the pair of {module!r} does not have rank {rank}, as {CONFIG} says")
        factors[module] = pair
    alone = [n for n in found if n.endswith(_B) and n.removeprefix(_PREFIX).removesuffix(_B) not in factors]
    if alone or not factors:
        raise CheckpointError(f"{file} holds pairs that are not whole ({alone[:3]!r}); save the adapter again")
    return factors
