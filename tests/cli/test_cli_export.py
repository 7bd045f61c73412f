"""`phronesis export` and `phronesis doctor model`: folders that others load, and what is said of folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from terminal import Seen

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from foreign import make
from tiny_jobs import config

from phronesis.models.checkpoint import load
from phronesis.models.files import carry
from phronesis.models.layout import plan
from phronesis.models.lora import LoraConfig
from phronesis.models.tokenizer import load_tokenizer
from phronesis.train import job

Run = Callable[..., Seen]
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IDS = torch.arange(3, 20)


def logp(decoder):
    with torch.no_grad():
        return decoder.logits(decoder.hidden(IDS, plan([len(IDS)], [None]))).log_softmax(-1)


def theirs(model):
    with torch.no_grad():
        return model.eval()(IDS[None]).logits[0].float().log_softmax(-1)


@pytest.fixture
def run(run: Run) -> Run:  # paths may be given as they are
    return lambda *words: run(*map(str, words))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained adapters on a model it made."""
    folder = tmp_path_factory.mktemp("export") / "run"
    job.run(config(lora=LoraConfig(rank=2)), folder)
    return folder


def test_a_run_with_adapters_comes_out_for_peft_and_merged_and_says_the_same(adapted: Path, tmp_path: Path, run: Run):
    trained = load(adapted / "checkpoints" / "step-00000004")
    seen = run("export", adapted, tmp_path / "apart")
    assert seen.code == 0 and f"adapter: {tmp_path / 'apart' / 'adapter'}" in seen.out
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "apart" / "base")
    assert (theirs(base) - logp(load(adapted / "checkpoints" / "step-00000000"))).abs().max() < 1e-5
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "apart" / "adapter"))
    assert (theirs(model) - logp(trained)).abs().max() < 1e-4
    tokenizers = [load_tokenizer(f) for f in (tmp_path / "apart" / "base", adapted / "checkpoints" / "tokenizer")]
    assert tokenizers[0].encode("a b") == tokenizers[1].encode("a b")
    told = json.loads(run("export", adapted, tmp_path / "merged", "--merge", "--json").out)
    assert told == {"model": str(tmp_path / "merged"), "adapter": None, "base": None}
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (theirs(merged) - logp(trained)).abs().max() < 1e-4
    again = run("export", tmp_path / "apart" / "base", tmp_path / "again", "--adapter", tmp_path / "apart" / "adapter")
    assert again.code == 0 and (logp(load(tmp_path / "again")) - logp(trained)).abs().max() < 1e-5


def test_types_shards_and_steps(adapted: Path, tmp_path: Path, run: Run):
    assert (
        run("export", adapted, tmp_path / "half", "--merge", "--step", "2", "--dtype", "bfloat16", "--shard", "20KB").code == 0
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert model.dtype == torch.bfloat16 and len(list((tmp_path / "half").glob("*.safetensors"))) > 1
    expected = load(adapted / "checkpoints" / "step-00000002")
    assert torch.equal(model.model.embed_tokens.weight, expected.embed.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--dtype", "int8"), "unknown type 'int8'"),
        (("--shard", "2 lots"), "size '2 lots' must be a whole number"),
        (("--step", "3"), "has no checkpoint of step 3; it has 0, 2, 4"),
    ],
)
def test_what_cannot_be_is_said(adapted: Path, tmp_path: Path, run: Run, words: tuple[str, ...], says: str):
    seen = run("export", adapted, tmp_path / "out", *words)
    assert seen.code == 2 and says in seen.err and not (tmp_path / "out").exists()


def test_nothing_is_overwritten(adapted: Path, tmp_path: Path, run: Run):
    (tmp_path / "mine").write_text("")
    seen = run("export", adapted, tmp_path)
    assert seen.code == 2 and "is not empty" in seen.err and [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_the_doctor_says_how_a_model_would_be_computed(adapted: Path, tmp_path: Path, run: Run):
    source = adapted / "checkpoints" / "step-00000004"
    told = json.loads(run("doctor", "model", source, "--json").out)
    decoder = load(source)
    assert told["parameters"] == sum(p.numel() for p in decoder.parameters()) and told["architecture"] == "qwen3"
    assert told["computed"] == "compiled" and told["why"] == "" and told["template"] in ("ok", "warn")
    assert told["types"] == {"F32": told["parameters"]} and told["positions"] == decoder.config.max_positions
    make("gpt2", len(load_tokenizer(source))).save_pretrained(tmp_path / "gpt2")
    carry(source, tmp_path / "gpt2")
    seen = run("doctor", "model", tmp_path / "gpt2")
    assert seen.code == 0 and "generic path through transformers" in seen.out and "'gpt2' is not supported" in seen.out
    make("gpt2").save_pretrained(tmp_path / "bare")
    seen = run("doctor", "model", tmp_path / "bare")
    assert seen.code == 1 and "template      fail" in seen.out
    transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path / "t5")
    seen = run("doctor", "model", tmp_path / "t5")
    assert seen.code == 1 and "cannot be used" in seen.out and "qwen2, qwen3, llama" in seen.out
    seen = run("doctor", "model", tmp_path / "nowhere")
    assert seen.code == 2 and "no model folder" in seen.err
