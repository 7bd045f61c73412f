"""Runs that train adapters alone: they learn, resume bit for bit, and leave the model under them as it was."""

from __future__ import annotations

import hashlib
from statistics import fmean

import pytest
import torch
from msgspec.structs import replace
from test_learning import SHORT, lesson
from tiny_jobs import Stopped, config, essence, events, stop_at

from phronesis.errors import ConfigError
from phronesis.models import lora, peft_files
from phronesis.models.checkpoint import load, save
from phronesis.models.files import carry
from phronesis.models.lora import LoraConfig
from phronesis.models.slots import slots
from phronesis.store import Run
from phronesis.train import checkpoint, job
from phronesis.train.learner import Learner
from phronesis.train.optimizer import AdamWConfig

LORA = LoraConfig(rank=3, alpha=6.0, targets=("q_proj", "v_proj", "up_proj"))


def at(folder, step):
    return checkpoint.load(folder / "checkpoints" / f"step-{step:08d}")


def digest(decoder):
    return hashlib.sha256(b"".join(s.view.numpy().tobytes() for s in slots(decoder))).hexdigest()


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "run"
    job.run(config(lora=LORA), folder)
    return folder


def test_only_adapted_matrices_move_and_only_adapters_have_optimiser_state(reference):
    first, last = at(reference, 0), at(reference, 4)
    pairs = zip(slots(first.decoder), slots(last.decoder), strict=True)
    moved = {a.name.split(".")[-2] for a, b in pairs if not torch.equal(a.view, b.view)}
    assert moved == {"q_proj", "v_proj", "up_proj"}
    base = last.decoder
    assert digest(base) != digest(first.decoder)
    lora.unmerge(base, last.learner["adapters"])
    assert digest(base) == digest(first.decoder)  # the base is there to the bit
    (part,) = last.learner["stepper"]["parts"]
    adapter = lora.adapter_of(last.learner["adapters"])
    sizes = sorted(tuple(s["exp_avg"].shape) for s in part["state"].values())
    assert sizes == sorted(tuple(t.shape) for pair in adapter.factors.values() for t in pair)
    (noted,) = [e for e in Run.open(reference).events() if e.kind == "lora"]
    assert noted.fields["trained"] == sum(t.numel() for pair in adapter.factors.values() for t in pair)


@pytest.mark.parametrize(("phase", "done"), [("train", 1), ("train", 3), ("heldout_after", 1)])
def test_stopped_and_resumed_bit_for_bit(reference, tmp_path, phase, done):
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        job.run(config(lora=LORA), folder, listener=stop_at(phase, done))
    job.run(config(lora=LORA), folder, resume=True)
    assert essence(folder, 4) == essence(reference, 4)
    one, two = at(folder, 4).learner["adapters"]["factors"], at(reference, 4).learner["adapters"]["factors"]
    assert all(torch.equal(one[m][k], two[m][k]) for m in two for k in "ab")
    assert len(events(folder, "lora")) == 1


def test_a_given_model_is_primed_and_trained_through_adapters_alone_and_continues_from_their_folder(reference, tmp_path):
    source = reference / "checkpoints" / "step-00000000"
    model = tmp_path / "model"
    save(load(source), model)
    carry(source, model)
    start = replace(config().model, path=str(model))
    job.run(config(lora=LORA, model=start), tmp_path / "run")
    after = at(tmp_path / "run", 4)
    adapter = lora.adapter_of(after.learner["adapters"])
    for step in (0, 4):  # primed, and trained
        loaded = at(tmp_path / "run", step)
        lora.unmerge(loaded.decoder, loaded.learner["adapters"])
        assert digest(loaded.decoder) == digest(load(model))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "run" / "checkpoints" / "step-00000004" / name).read_bytes() == (model / name).read_bytes()
    peft_files.save(adapter, tmp_path / "adapter")
    further = config(lora=LoraConfig(path=str(tmp_path / "adapter")), model=start, prime=None, steps=0)
    job.run(further, tmp_path / "further")
    again = at(tmp_path / "further", 0)
    assert all(torch.equal(a, b) for a, b in zip(again.decoder.parameters(), after.decoder.parameters(), strict=True))


def test_adapters_alone_learn_a_probe(tmp_path):
    """Any answer that does not look at the prompt earns 0.5."""
    made = lesson("copy", 0, steps=24, lr=1.5e-2, shown=SHORT, lora=LoraConfig(rank=4, alpha=8.0))
    job.run(made, tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        curve = [value for _, value in run.curve("reward/mean")]
        mismatch = [value for _, value in run.curve("mismatch/max_logprob_difference")]
    assert curve[0] < 0.75 and fmean(curve[-4:]) > 0.9
    assert max(mismatch) < 1e-3  # the engine samples with the merged weights the learner differentiates


def test_a_checkpoint_and_a_learner_must_agree_on_adapters(reference):
    loaded = at(reference, 2)
    plain = Learner(load(reference / "checkpoints" / "step-00000002"), config().learner)
    with pytest.raises(ConfigError, match="do not both train adapters"):
        plain.restore(loaded.learner)
    other = lora.Adapters(loaded.decoder, lora.fresh(loaded.decoder, LoraConfig(rank=3, targets=("o_proj",)), 0))
    with pytest.raises(ConfigError, match="adapts other matrices"):
        Learner(loaded.decoder, replace(config().learner, optimizer=AdamWConfig()), adapters=other).restore(loaded.learner)
