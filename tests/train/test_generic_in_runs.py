"""Runs with a model of another architecture: primed, trained, checkpointed and resumed through transformers."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from statistics import fmean

import pytest
from msgspec.structs import replace
from test_learning import SHORT, lesson
from tiny_jobs import Stopped, config, essence, events, stop_at

from phronesis.credit import GAECredit
from phronesis.envs import registry
from phronesis.errors import ConfigError, UnsupportedModel
from phronesis.models.generic import GenericModel
from phronesis.models.lora import LoraConfig
from phronesis.models.tokenizer import save_tokenizer
from phronesis.store import Run
from phronesis.train import checkpoint, job
from phronesis.train.config import RunConfig
from phronesis.train.critic import CriticConfig
from phronesis.train.priming import demonstrations, make_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from foreign import make


def arrange(run: RunConfig, folder: Path, kind: str, **sizes) -> RunConfig:
    """A run of the same world with a random model of another architecture and a tokenizer made for it."""
    shown = asyncio.run(demonstrations(registry.get(run.env.name, run.env.args), run))
    tokenizer = make_tokenizer(shown, run.model.vocab_size)
    make(kind, len(tokenizer), **sizes).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return replace(run, model=replace(run.model, path=str(folder)))


@pytest.fixture
def quiet():
    """The warning about the slower path is checked where it is the point."""
    logging.getLogger("phronesis.train").setLevel(logging.ERROR)
    yield
    logging.getLogger("phronesis.train").setLevel(logging.NOTSET)


def test_gpt2_learns_a_probe(tmp_path, quiet):
    """Any answer that does not look at the prompt earns 0.5."""
    made = lesson("copy", 0, steps=24, lr=6e-3, shown=SHORT)
    made = arrange(made, tmp_path / "model", "gpt2", n_embd=32, n_positions=256)
    job.run(made, tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        curve = [value for _, value in run.curve("reward/mean")]
        mismatch = [value for _, value in run.curve("mismatch/max_logprob_difference")]
    assert curve[0] < 0.75 and fmean(curve[-4:]) > 0.9
    assert 0 < max(mismatch) < 1e-3  # sampled ids are scored as they were sampled
    (said,) = events(tmp_path / "run", "generic")
    assert "'gpt2' is not supported" in said and "compiled step" in said
    assert events(tmp_path / "run", "engine") == ["samples with transformers"]


@pytest.mark.parametrize("kind", ["gemma2", "gpt_neox"])
def test_stopped_and_resumed_bit_for_bit(tmp_path, quiet, kind):
    made = arrange(config(), tmp_path / "model", kind, max_position_embeddings=256)
    job.run(made, tmp_path / "whole")
    with pytest.raises(Stopped):
        job.run(made, tmp_path / "cut", listener=stop_at("train", 3))
    job.run(made, tmp_path / "cut", resume=True)
    assert essence(tmp_path / "cut", 4) == essence(tmp_path / "whole", 4)
    assert isinstance(checkpoint.load(tmp_path / "cut" / "checkpoints" / "step-00000004").decoder, GenericModel)


def test_a_supported_model_goes_through_transformers_where_asked(tmp_path, quiet):
    job.run(config(steps=0), tmp_path / "first")
    given = replace(config().model, path=str(tmp_path / "first" / "checkpoints" / "step-00000000"), generic=True)
    job.run(config(model=given, steps=2, prime=None), tmp_path / "run")
    assert "model.generic = true" in events(tmp_path / "run", "generic")[0]
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "step-00000002").manifest.generic
    fast = config(model=replace(given, generic=None), steps=2, prime=None)
    job.run(fast, tmp_path / "fast")
    assert events(tmp_path / "fast", "generic") == []
    with Run.open(tmp_path / "run") as slow, Run.open(tmp_path / "fast") as run:
        losses = [[value for _, value in r.curve("update/loss")] for r in (slow, run)]
    assert losses[0] and losses[0] == pytest.approx(losses[1], abs=1e-3)  # the same run but for rounding


@pytest.mark.parametrize(
    ("changes", "says", "error"),
    [
        ({"lora": LoraConfig()}, "lora adapts matrices of the compact decoder", ConfigError),
        ({"critic": CriticConfig()}, "a critic reads the states of the compact decoder", ConfigError),
        ({"generic": False}, r"qwen2, qwen3, llama\. Leave model\.generic out", UnsupportedModel),
    ],
)
def test_what_the_path_lacks_is_refused(tmp_path, quiet, changes, says, error):
    made = arrange(config(prime=None), tmp_path / "model", "gpt2", n_positions=256)
    if "generic" in changes:
        made = replace(made, model=replace(made.model, generic=False))
    else:
        credit = {"credit": GAECredit()} if "critic" in changes else {}
        made = replace(made, **changes, **credit)
    with pytest.raises(error, match=says):
        job.run(made, tmp_path / "run")
