"""Checkpoints: resuming continues bit for bit; damage is found and an older checkpoint named."""

import asyncio

import pytest
import torch
from sampled_groups import make_decoder, make_group

from phronesis.credit import GroupStandard, TrajectoryCredit
from phronesis.errors import CheckpointError, ConfigError
from phronesis.losses import LossConfig, PPOClipLoss
from phronesis.models.checkpoint import load as load_model
from phronesis.train.batching import build_batch
from phronesis.train.checkpoint import MANIFEST, Manifest, latest, load, matches, save, steps
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig, Linear, MuonConfig


def batch_of(decoder, step):
    """What the sampler would give at this step: a function of the weights and the step."""
    groups = [make_group(decoder, 10 * step + i) for i in range(2)]
    return build_batch(groups, [asyncio.run(TrajectoryCredit(baseline=GroupStandard()).assign(g)) for g in groups])


@pytest.mark.parametrize("optimizer", [AdamWConfig(lr=1e-2), MuonConfig(rest=AdamWConfig(lr=1e-2))])
@pytest.mark.parametrize("passes", [{}, {"epochs": 2, "minibatches": 2, "mismatch_error": 9.0}])
def test_resume_is_bit_identical(tmp_path, optimizer, passes):
    loss = LossConfig(objective=PPOClipLoss())
    config = LearnerConfig(optimizer=optimizer, schedule=Linear(steps=20, warmup=4), loss=loss, **passes)

    def run(learner, first, last):
        return [learner.update(batch_of(learner.decoder, step)) for step in range(first, last)]

    straight = Learner(make_decoder(), config)
    whole = run(straight, 0, 6)
    half = Learner(make_decoder(), config)
    run(half, 0, 3)
    path = save(tmp_path, half.decoder, half, Manifest(step=3, source={"at": 7}, counters={"episodes": 12}, config="abc"))
    run(half, 3, 4)  # what happens after saving does not matter

    found = load(path)
    assert (found.manifest.step, found.manifest.source, found.manifest.counters) == (3, {"at": 7}, {"episodes": 12})
    resumed = Learner(found.decoder, config)
    resumed.restore(found.learner)
    rest = run(resumed, 3, 6)
    for a, b in zip(whole[3:], rest, strict=True):
        assert (a.loss, a.grad_norm, a.lr, a.kl_k3) == (b.loss, b.grad_norm, b.lr, b.kl_k3)
    for (name, a), (_, b) in zip(straight.decoder.named_parameters(), resumed.decoder.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.fixture
def learner():
    return Learner(make_decoder(), LearnerConfig())


def put(folder, learner, step, **options):
    return save(folder, learner.decoder, learner, Manifest(step=step), **options)


def test_the_folder_is_an_ordinary_model(tmp_path, learner):
    (tmp_path / "tokenizer.json").write_text("{}")
    path = put(tmp_path / "c", learner, 1, beside=[tmp_path / "tokenizer.json"])
    assert (path / "tokenizer.json").read_text() == "{}"
    for a, b in zip(load_model(path).parameters(), learner.decoder.parameters(), strict=True):
        assert torch.equal(a, b)


def test_latest_keep_and_spare(tmp_path, learner):
    assert latest(tmp_path / "none") is None and latest(tmp_path) is None
    for step in (0, 2, 4, 10):
        put(tmp_path, learner, step, keep=2, spare=[0])
    assert [p.name for p in steps(tmp_path)] == ["step-00000000", "step-00000004", "step-00000010"]
    assert latest(tmp_path).name == "step-00000010"
    put(tmp_path, learner, 10, keep=1)
    assert [p.name for p in steps(tmp_path)] == ["step-00000010"]
    put(tmp_path, learner, 11, keep=None)
    assert len(steps(tmp_path)) == 2
    with pytest.raises(ConfigError, match="keep"):
        put(tmp_path, learner, 12, keep=0)


def test_saving_an_earlier_step_again_keeps_it(tmp_path, learner):
    put(tmp_path, learner, 5)
    assert put(tmp_path, learner, 3, keep=1).is_dir()


def test_an_interrupted_save_leaves_nothing_behind(tmp_path, learner, monkeypatch):
    put(tmp_path, learner, 1)

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", crash)
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path, learner, 2)
    assert latest(tmp_path).name == "step-00000001"
    load(latest(tmp_path))
    put(tmp_path, learner, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("file", ["model.safetensors", "learner.pt", "config.json", MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_damage_is_found_and_the_older_one_named(tmp_path, learner, file, damage):
    put(tmp_path, learner, 1)
    path = put(tmp_path, learner, 2) / file
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="step-00000001"):
        load(tmp_path / "step-00000002")


def test_a_missing_checkpoint(tmp_path, learner):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load(tmp_path / "step-00000009")
    path = put(tmp_path, learner, 1)
    (path / "learner.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="start the run again"):
        load(path)


def test_another_config_is_refused():
    manifest = Manifest(step=3, config="abc")
    matches(manifest, "abc")
    matches(manifest, "")
    with pytest.raises(CheckpointError, match="'abc'"):
        matches(manifest, "xyz")
