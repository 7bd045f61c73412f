"""Adapters: gradients by the chain rule, a base that stays as it was, and folders that peft itself reads and writes."""

from __future__ import annotations

import json
from copy import deepcopy

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from phronesis.errors import CheckpointError, ConfigError
from phronesis.models import lora, peft_files
from phronesis.models.checkpoint import load, save
from phronesis.models.layout import plan
from phronesis.models.lora import Adapter, Adapters, Factors, LoraConfig
from phronesis.models.slots import slots
from phronesis.models.tiny import TinyModel, tiny

# peft still asks transformers under an older name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SIZES = {
    "vocab_size": 47, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])


def base(tmp_path, family="Qwen3", **sizes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, "head_dim": 6, **sizes})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def small():
    return tiny(
        TinyModel(width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=24, matrix_std=0.2, embed_std=1.0), 30, 3
    )


def logp(decoder, ids=IDS):
    return decoder.logits(decoder.hidden(ids, plan([len(ids)], [None]))).log_softmax(-1)


def loss(decoder):
    return -logp(decoder)[:-1].gather(1, IDS[1:, None]).mean()


def nll(decoder):
    with torch.no_grad():
        return float(loss(decoder))


def noisy(adapter, seed=1):
    """The same adapter with factors that change the model."""
    g = torch.Generator().manual_seed(seed)
    factors = {m: Factors(f.a, torch.randn(f.b.shape, generator=g) * 0.1) for m, f in adapter.factors.items()}
    return adapter._replace(factors=factors)


def test_a_fresh_adapter_changes_no_bit_and_depends_on_its_seed_alone():
    decoder, config = small(), LoraConfig(rank=3)
    before = [p.detach().clone() for p in decoder.parameters()]
    one, two, other = (lora.fresh(decoder, config, s) for s in (5, 5, 6))
    adapters = Adapters(decoder, one)
    assert all(torch.equal(a, b) for a, b in zip(before, decoder.parameters(), strict=True))
    assert len(one.factors) == 2 * 7 and adapters.trained == sum(a.numel() + b.numel() for a, b in one.factors.values())
    name = "model.layers.1.mlp.up_proj"
    assert torch.equal(one.factors[name].a, two.factors[name].a)
    assert not torch.equal(one.factors[name].a, other.factors[name].a)
    assert one.factors[name].a.abs().max() <= 1 / 16**0.5 and one.factors[name].a.std() > 0.1


def test_a_merged_matrix_by_hand():
    decoder = small()
    q = next(s for s in slots(decoder) if s.name == "model.layers.0.self_attn.q_proj.weight")
    old = q.view.clone()
    a, b = torch.zeros(2, 16), torch.zeros(16, 2)
    a[0, 3], a[1, 5], b[4, 0], b[7, 1] = 2.0, 1.0, 0.5, -1.0
    adapter = Adapter(2, 8.0, ("q_proj",), {"model.layers.0.self_attn.q_proj": Factors(a, b)})
    Adapters(decoder, adapter)
    added = q.view - old
    assert added[4, 3] == pytest.approx(4.0, abs=1e-6)  # 8 / 2 * 0.5 * 2
    assert added[7, 5] == pytest.approx(-4.0, abs=1e-6)
    assert int((added != 0).sum()) == 2


@pytest.mark.parametrize("targets", [("q_proj",), ("v_proj", "down_proj"), lora.ALL_TARGETS])
def test_gradients_of_factors_are_those_of_automatic_differentiation(targets):
    """Through the chain rule of the merged weights, over several backward passes, against autograd through base + s B A."""
    decoder = small()
    adapter = noisy(lora.fresh(decoder, LoraConfig(rank=2, alpha=3.0, targets=targets), 0))
    adapters = Adapters(decoder, adapter)
    for part in (IDS[:6], IDS[4:]):
        logp(decoder, part)[:, 2].sum().backward()
    assert all(p.grad is None for p in decoder.parameters())  # nothing of the merged weights' gradient is left behind

    again, leaves = small(), {}
    state = dict(again.named_parameters())
    merged = {name: p.detach().clone() for name, p in state.items()}
    owner = {id(p): name for name, p in state.items()}
    for slot in slots(again):
        module = slot.name.removesuffix(".weight")
        if module in adapter.factors:
            a, b = (t.clone().requires_grad_() for t in adapter.factors[module])
            leaves[module] = (a, b)
            whole = merged[owner[id(slot.parameter)]].clone()
            whole[slot.rows] = slot.view + adapter.scale * b @ a
            merged[owner[id(slot.parameter)]] = whole

    class Run(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = again

        def forward(self, ids):
            return logp(self.model, ids)

    for part in (IDS[:6], IDS[4:]):
        out = torch.func.functional_call(Run(), {f"model.{n}": p for n, p in merged.items()}, (part,))
        out[:, 2].sum().backward(retain_graph=True)
    for name, p in adapters.named_parameters():
        module, _, which = name.rpartition(".lora_")
        expected = leaves[module][which == "B"].grad
        torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))


def test_training_leaves_the_base_alone_and_the_state_continues_bit_for_bit():
    def train(adapters, optimiser, steps):
        for _ in range(steps):
            loss(adapters.decoder).backward()
            optimiser.step()
            optimiser.zero_grad()
            adapters.merge()

    def begin(adapters):
        return torch.optim.AdamW([p for _, p in adapters.named_parameters()], lr=0.02)

    decoder = small()
    whole = Adapters(decoder, lora.fresh(decoder, LoraConfig(rank=2, targets=("q_proj", "up_proj")), 0))
    digest, untouched = whole.digest(), {n: p.detach().clone() for n, p in decoder.named_parameters()}
    optimiser = begin(whole)
    first = nll(decoder)
    train(whole, optimiser, 3)
    saved = whole.state()
    middle, moments = {n: p.detach().clone() for n, p in decoder.named_parameters()}, optimiser.state_dict()
    resumed_decoder = small()
    resumed_decoder.load_state_dict(middle)
    resumed = lora.resume(resumed_decoder, saved)
    second = begin(resumed)
    second.load_state_dict(deepcopy(moments))
    train(whole, optimiser, 3)
    train(resumed, second, 3)
    assert whole.digest() == digest == resumed.digest()
    assert nll(decoder) < first - 0.5
    assert all(torch.equal(a, b) for a, b in zip(decoder.parameters(), resumed_decoder.parameters(), strict=True))
    changed = {n.rpartition(".")[2] for n, p in decoder.named_parameters() if not torch.equal(p, untouched[n])}
    assert changed == {"qkv", "gate_up"}
    kv = decoder.blocks[0].qkv.detach()[16:]
    assert torch.equal(kv, untouched["blocks.0.qkv"][16:])  # k and v share a matrix with q and are not adapted
    whole.reset()
    assert all(torch.equal(p, untouched[n]) for n, p in decoder.named_parameters())
    with torch.no_grad():
        decoder.final_norm.add_(1e-3)
    assert whole.digest() != digest


@pytest.mark.parametrize(
    ("family", "targets"), [("Qwen3", lora.ALL_TARGETS), ("Llama", ("q_proj", "v_proj")), ("Qwen2", ("down_proj",))]
)
def test_peft_loads_what_we_write_and_gives_the_same_logits(tmp_path, family, targets):
    folder = base(tmp_path, family, **({"hidden_size": 24, "head_dim": 6} if family == "Qwen2" else {}))
    decoder = load(folder)
    adapter = noisy(lora.fresh(decoder, LoraConfig(rank=3, alpha=7.5, targets=targets), 0))
    peft_files.save(adapter, tmp_path / "adapter", str(folder))
    lora.merge(decoder, adapter)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    plain = model(IDS[None]).logits[0].log_softmax(-1)
    adapted = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        theirs = adapted(IDS[None]).logits[0].log_softmax(-1)
    assert (logp(decoder) - theirs).abs().max() < 1e-4
    assert (plain - theirs).abs().max() > 1e-2  # the adapter does something
    assert peft.PeftConfig.from_pretrained(str(tmp_path / "adapter")).base_model_name_or_path == str(folder)
    with torch.no_grad():
        by_name = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))(IDS[None]).logits[0].log_softmax(-1)
    assert (by_name - theirs).abs().max() < 1e-6


def test_we_load_what_peft_writes_bit_for_bit(tmp_path):
    folder = base(tmp_path, "Llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    settings = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["k_proj", "gate_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        theirs = adapted(IDS[None]).logits[0].log_softmax(-1)
    adapter = peft_files.load(tmp_path / "adapter")
    assert (adapter.rank, adapter.alpha, adapter.targets) == (4, 8.0, ("k_proj", "gate_proj"))
    decoder = load(folder)
    Adapters(decoder, adapter)
    assert (logp(decoder) - theirs).abs().max() < 1e-4
    peft_files.save(adapter, tmp_path / "again")
    one, two = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("adapter", "again"))
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def test_a_merged_model_is_an_ordinary_checkpoint(tmp_path):
    folder = base(tmp_path)
    decoder = load(folder)
    adapter = noisy(lora.fresh(decoder, LoraConfig(rank=2), 0))
    adapters = Adapters(decoder, adapter)
    save(decoder, tmp_path / "merged")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        assert (model(IDS[None]).logits[0].log_softmax(-1) - logp(decoder)).abs().max() < 1e-4
    unmerged = load(tmp_path / "merged")
    lora.unmerge(unmerged, adapters.state())
    assert all(torch.equal(a, b) for a, b in zip(unmerged.parameters(), load(folder).parameters(), strict=True))


def change(field, value):
    def act(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))

    return act


def tensors(act):
    def apply(folder):
        file = folder / "adapter_model.safetensors"
        found = load_file(file)
        act(found)
        save_file(found, file)

    return apply


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (change("use_dora", True), "use_dora = True is not supported; merge"),
        (change("modules_to_save", ["lm_head"]), "modules_to_save"),
        (change("rank_pattern", {"q_proj": 8}), "rank_pattern"),
        (change("peft_type", "IA3"), "'IA3'"),
        (change("r", 0), "r 0"),
        (change("r", 5), "does not have rank 5"),
        (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json is missing"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"no"), "corrupt or truncated"),
        (tensors(lambda t: t.pop(f"{Q}.lora_B.weight")), f"{Q}.lora_B.weight' is missing"),
        (tensors(lambda t: t.pop(f"{Q}.lora_A.weight")), "not whole"),
        (tensors(lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(2)})), "no plain LoRA pair"),
        (
            tensors(lambda t: t.update({f"{Q[:-6]}lm_head.lora_{x}.weight": torch.ones(2, 2) for x in "AB"})),
            "adapters of lm_head",
        ),
    ],
)
def test_adapters_that_cannot_be_taken_whole_are_refused(tmp_path, spoil, says):
    peft_files.save(lora.fresh(small(), LoraConfig(rank=2), 0), tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        peft_files.load(tmp_path)
    assert says in str(caught.value) and str(tmp_path) in str(caught.value)


def test_adapters_of_another_model_and_impossible_settings_are_refused():
    adapter = lora.fresh(small(), LoraConfig(rank=2), 0)
    other = tiny(TinyModel(width=8, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=24), 30, 3)
    with pytest.raises(CheckpointError, match="use the model it was trained on"):
        Adapters(other, adapter)
    shallow = tiny(TinyModel(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=24), 30, 3)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1.*which the model lacks"):
        lora.merge(shallow, adapter)
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"targets": ()}, {"targets": ("q_proj", "q_proj")}):
        with pytest.raises(ConfigError, match="lora"):
            LoraConfig(**wrong)
    with pytest.raises(ConfigError, match="float32"):
        Adapters(small().bfloat16(), adapter)
