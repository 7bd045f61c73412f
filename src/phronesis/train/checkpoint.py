"""Checkpoints: everything a run needs to continue bit for bit, in one folder that is either whole or absent.

``step-00000012/`` is an ordinary Hugging Face model directory (weights, config, and the tokenizer's files if given) with
two more files: ``learner.pt`` (optimiser and schedule) and ``checkpoint.json`` (step, sources, counters and the SHA-256 of
every other file, checked on loading). A run with a critic adds ``critic.pt``: its weights, optimiser and steps.

A folder is written as ``.saving-step-00000012`` and renamed when it is complete and on the disk. Where a checkpoint of that
step exists, it is first renamed to ``.saving-old-step-00000012``, which counts as the checkpoint of its step until the new
one has its name. So a process may be killed anywhere: the newest checkpoint is whole, and the next `save` tidies up.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, cast

import msgspec
import torch
from msgspec import Struct
from safetensors import SafetensorError

from phronesis.errors import CheckpointError, ConfigError
from phronesis.models.causal import LanguageModel
from phronesis.models.generic import GenericModel
from phronesis.models.opening import open_model, save_model
from phronesis.records import Task
from phronesis.store.disk import make_folder, sync
from phronesis.store.saved import ASIDE, MANIFEST, PREFIX, saved, whole
from phronesis.train.learning import Learns
from phronesis.train.twins import AnyCritic

log = logging.getLogger(__name__)

LEARNER = "learner.pt"
CRITIC = "critic.pt"
_HIDDEN = ".saving-"


class UnderWay(Struct, frozen=True, kw_only=True):
    """A group that was started and not learned from yet; its finished episodes lie in the run's episode files."""

    number: int
    """Counts groups over the whole run."""
    task: Task
    """What it attempts."""
    born: int
    """Version of the weights it was started with."""
    finished: int | None = None
    """Place in the order of finishing; None while it was played: it is started again."""


class Manifest(Struct, frozen=True, kw_only=True):
    """What a checkpoint holds besides tensors."""

    format: int = 1
    """Version of this layout."""
    step: int
    """Training steps done."""
    source: dict[str, int | float | str] = {}
    """State of the task source (`TaskSource.state`)."""
    credit: dict[str, float] = {}
    """What the credit rule remembers, if it does (`phronesis.credit.Remembers`)."""
    player: dict[str, float] = {}
    """What the player remembers, if it does."""
    started: int = 0
    """Groups started in the whole run, where they are played while the policy learns."""
    under_way: tuple[UnderWay, ...] = ()
    """Those of them that were not learned from yet."""
    counters: dict[str, int | float | str] = {}
    """Whatever else is counted over a whole run. (Random streams have no position: every number is a function of the seed and
    of what it is for.)"""
    config: str = ""
    """Hash of the run's config; empty when not given."""
    generic: bool = False
    """Whether the model is computed through transformers."""
    files: dict[str, str] = {}
    """SHA-256 of every other file, by name."""


class Checkpoint(NamedTuple):
    """A loaded checkpoint."""

    manifest: Manifest
    """Step, source, counters."""
    decoder: LanguageModel
    """The model, in float32."""
    learner: dict[str, Any]
    """What `Learner.restore` takes."""
    critic: dict[str, Any] | None = None
    """What `Critic.restore` takes; None where the run has no critic."""


def save(
    folder: Path,
    decoder: LanguageModel,
    learner: Learns,
    manifest: Manifest,
    *,
    beside: Sequence[Path] = (),
    keep: int | None = 2,
    spare: Collection[int] = (),
    critic: AnyCritic | None = None,
) -> Path:
    """Writes a checkpoint and removes the oldest ones.

    Args:
        folder: where a run's checkpoints lie; made if missing.
        decoder: the model.
        learner: its optimiser state is saved.
        manifest: step, source and counters; `files` is filled in here.
        beside: files to copy along, e.g. the tokenizer's, so that the folder is usable on its own.
        keep: how many of the newest checkpoints to keep, at least 1; None keeps all.
        spare: steps whose checkpoints are kept in any case and do not count, e.g. the first.
        critic: saved whole, where there is one.

    Returns:
        The checkpoint's folder. A checkpoint of the same step is replaced. One that should go and cannot be removed is left
        with a warning; the next `save` tries again.

    Raises:
        CheckpointError: it cannot be written (a full or failing disk, missing permissions); the earlier ones are untouched.
    """
    if keep is not None and keep < 1:
        raise ConfigError(f"keep {keep!r} must be at least 1, or None for all")
    target = folder / _name(manifest.step)
    draft = folder / f"{_HIDDEN}{target.name}"
    try:
        make_folder(folder)
        tidy(folder)
        states = {LEARNER: learner.state()} | ({} if critic is None else {CRITIC: critic.state()})
        _write(draft, decoder, states, manifest, beside)
        _publish(draft, target)
    except (OSError, SafetensorError, _WriteError) as error:
        shutil.rmtree(draft, ignore_errors=True)  # it takes up space that may be what is missing
        raise _unwritable(target, error) from error
    if keep is not None:
        spared = {_name(step) for step in spare}
        for old in [p for p in steps(folder) if p.name not in spared][:-keep]:
            if old != target:
                _remove(old)
    return target


def tidy(folder: Path) -> None:
    """Undoes what a killed `save` left: a checkpoint set aside gets its name back, drafts are removed if possible.

    Only for the process that writes the run; readers need not call it, `steps` and `latest` see through it.

    Raises:
        OSError: the folder cannot be written.
    """
    for old in sorted(folder.glob(f"{ASIDE}*")):
        target = folder / old.name.removeprefix(ASIDE)
        if whole(old) and not whole(target):
            if target.exists():
                shutil.rmtree(target)
            old.rename(target)
            sync(folder)
    for stale in sorted(folder.glob(f"{_HIDDEN}*")):
        _discard(stale)


def _write(
    draft: Path, decoder: LanguageModel, states: Mapping[str, dict[str, Any]], manifest: Manifest, beside: Sequence[Path]
) -> None:
    """Fills a new folder and puts it on the disk."""
    draft.mkdir()
    save_model(decoder, draft)
    for path in beside:
        shutil.copyfile(path, draft / path.name)
    try:
        for name, state in states.items():
            with (draft / name).open("wb") as file:
                torch.save(state, file)
    except RuntimeError as error:  # how torch reports a failed write; what failed is its context
        raise _WriteError(str(error.__context__ or error)) from error
    names = sorted(p.name for p in draft.iterdir())
    digests = {name: _digest(draft / name) for name in names}
    complete = msgspec.structs.replace(manifest, files=digests, generic=isinstance(decoder, GenericModel))
    (draft / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(complete), indent=2) + b"\n")
    for path in (*draft.iterdir(), draft):
        sync(path)


def _publish(draft: Path, target: Path) -> None:
    """Gives a complete draft its name; at every moment the old or the new checkpoint of that step can be loaded."""
    old = target.with_name(f"{ASIDE}{target.name}")
    if target.exists():
        target.rename(old)
        sync(target.parent)
    draft.rename(target)
    sync(target.parent)
    if old.exists():
        _discard(old)


def _remove(path: Path) -> None:
    """Removes a checkpoint; one that is half removed has no checkpoint's name any more."""
    gone = path.with_name(f"{_HIDDEN}gone-{path.name}")
    try:
        path.rename(gone)
    except OSError as error:
        _warn(path, error)
    else:
        _discard(gone)


def _discard(path: Path) -> None:
    """Removes a folder that is no checkpoint any more. That it takes up space is no reason to stop a run."""
    try:
        shutil.rmtree(path)
    except OSError as error:
        _warn(path, error)


def _warn(path: Path, error: OSError) -> None:
    log.warning(
        "%s is no longer needed and cannot be removed (%s); the next checkpoint tries again, or remove it by hand", path, error
    )


class _WriteError(Exception):
    """A write that failed without an OSError."""


def _unwritable(target: Path, error: Exception) -> CheckpointError:
    why = str(error).partition("\n")[0]
    newest = latest(target.parent)
    kept = f"{str(newest)!r} is whole" if newest is not None else "there is no earlier one"
    return CheckpointError(
        f"cannot write checkpoint {str(target)!r}: {why}; {kept}; "
        "free some space or fix the permissions, then continue with --resume"
    )


def load(path: Path) -> Checkpoint:
    """Reads and verifies a checkpoint.

    Raises:
        CheckpointError: missing, incomplete or corrupt; the message names an older checkpoint where there is one.
    """
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {str(path)!r}")
    try:
        manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
        for name, digest in manifest.files.items():
            if _digest(path / name) != digest:
                raise _corrupt(path, f"{name!r} differs from what was written")
        learner = _state(path / LEARNER)
        critic = _state(path / CRITIC) if CRITIC in manifest.files else None
        decoder = open_model(path, manifest.generic)
    except (OSError, UnicodeError, msgspec.DecodeError, UnpicklingError, RuntimeError) as error:
        raise _corrupt(path, f"{type(error).__name__}: {error}") from error
    return Checkpoint(manifest, decoder, learner, critic)


def _state(path: Path) -> dict[str, Any]:
    return cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run; None when there is none."""
    found = steps(folder)
    return found[-1] if found else None


def steps(folder: Path) -> list[Path]:
    """A run's checkpoints, oldest first; see `phronesis.store.saved`."""
    return saved(folder)


def _name(step: int) -> str:
    return f"{PREFIX}{step:08d}"


def matches(manifest: Manifest, config: str) -> None:
    """Raises CheckpointError when a checkpoint was made with another config (both hashes known)."""
    if manifest.config and config and manifest.config != config:
        raise CheckpointError(
            f"the checkpoint of step {manifest.step} was made with config {manifest.config!r}, this run has {config!r}; "
            "resume with the run folder's own config.toml"
        )


def _corrupt(path: Path, why: str) -> CheckpointError:
    older = [p for p in steps(path.parent) if p.name.removeprefix(ASIDE) < path.name.removeprefix(ASIDE)]
    advice = f"continue from {str(older[-1])!r}" if older else "there is no older checkpoint; start the run again"
    return CheckpointError(f"checkpoint {str(path)!r} is corrupt: {why}. Remove it and {advice}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        hasher = sha256()
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
