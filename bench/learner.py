"""One update on a step's rows: the forest learner against a padded batch through the same architecture in transformers.

python -m bench.learner ours|peer WIDTH LAYERS
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from importlib.metadata import version

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from bench.measure import Row, both_sides, compare, repeat
from phronesis.losses import LossConfig
from phronesis.losses.aggregation import ConstantNorm
from phronesis.models.checkpoint import load
from phronesis.records import Batch, Segment
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig

VOCABULARY, PROMPT, GROUPS, GROUP, REPEATS = 478, 194, 4, 8, 10
Rows = list[tuple[int, list[int], list[bool], float]]
"""Group, ids after the prompt, which were sampled, advantage."""


def learner() -> list[Row]:
    """Both sizes of the comparison with TRL."""
    rows: list[Row] = []
    for width, layers, target in (("64", "2", 2.0), ("256", "4", 2.0)):
        ours, peer = both_sides("bench.learner", width, layers)
        what = f"update on {GROUPS} groups of {GROUP} with a prompt of {PROMPT} tokens, {width}x{layers}"
        name = f"transformers {version('transformers')}, padded batch"
        rows.append(
            compare("learner", what, ours, peer, unit="updates per CPU-s", peer_name=name, better="higher", target=target)
        )
    return rows


def step_rows() -> tuple[list[int], Rows]:
    """A prompt all groups share, and 32 episodes of two to four exchanges of 19 sampled and 14 given tokens."""
    rng = random.Random(0)
    prompt = [rng.randrange(VOCABULARY) for _ in range(PROMPT)]
    rows: Rows = []
    for member in range(GROUPS * GROUP):
        exchanges = rng.choice((2, 3, 4, 4))
        said = ([True] * 19 + [False] * 14) * exchanges + [True] * 6
        rows.append((member // GROUP, [rng.randrange(VOCABULARY) for _ in said], said, rng.uniform(-0.5, 0.5)))
    return prompt, rows


def build_model(width: int, layers: int) -> Qwen3ForCausalLM:
    """The architecture of the comparison with TRL, with random weights."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


def ours(model: Qwen3ForCausalLM) -> list[float]:
    """Updates per CPU-second of the learner."""
    prompt, rows = step_rows()
    empty = (0.0,) * PROMPT
    segments = [
        Segment(
            parent=None,
            ids=tuple(prompt),
            mask=(False,) * PROMPT,
            logprobs=empty,
            advantages=empty,
            turns=(-1,) * PROMPT,
            episode=-1,
        )
    ]
    for index, (_, ids, said, advantage) in enumerate(rows):
        segments.append(
            Segment(
                parent=0,
                ids=tuple(ids),
                mask=tuple(said),
                logprobs=tuple(-6.0 if s else 0.0 for s in said),
                advantages=tuple(advantage if s else 0.0 for s in said),
                turns=tuple(0 if s else -1 for s in said),
                episode=index,
            )
        )
    spoken = tuple(sum(said) for _, _, said, _ in rows)
    batch = Batch(
        segments=tuple(segments),
        episodes=tuple(map(str, range(len(rows)))),
        sequence_tokens=spoken,
        total_tokens=sum(spoken),
        total_sequences=len(rows),
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        decoder = load(folder)
    config = LearnerConfig(
        loss=LossConfig(aggregation=ConstantNorm(horizon=100)),
        optimizer=AdamWConfig(lr=1e-6),
        mismatch_error=100.0,
        mismatch_warn=100.0,
    )
    worker = Learner(decoder, config)
    return repeat(lambda: worker.update(batch), 1.0, REPEATS)


def peer(model: Qwen3ForCausalLM) -> list[float]:
    """Updates per CPU-second of the obvious loop: pad, forward, log-softmax, REINFORCE, AdamW."""
    prompt, rows = step_rows()
    longest = max(len(ids) for _, ids, _, _ in rows)
    ids_BL = torch.tensor([prompt + ids + [0] * (longest - len(ids)) for _, ids, _, _ in rows])
    attention_BL = torch.tensor([[1] * (PROMPT + len(ids)) + [0] * (longest - len(ids)) for _, ids, _, _ in rows])
    said_BT = torch.tensor([said + [False] * (longest - len(said)) for _, _, said, _ in rows])
    advantage_B = torch.tensor([advantage for *_, advantage in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)

    def update() -> None:
        logits_BTV = model(input_ids=ids_BL, attention_mask=attention_BL, logits_to_keep=longest + 1).logits[:, :-1]
        logp_BT = logits_BTV.log_softmax(-1).gather(-1, ids_BL[:, PROMPT:, None])[..., 0]
        loss = -(logp_BT * advantage_B[:, None] * said_BT).sum() / (100 * len(rows))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return repeat(update, 1.0, REPEATS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    side, width_text, layers_text = sys.argv[1:4]
    print(json.dumps({"ours": ours, "peer": peer}[side](build_model(int(width_text), int(layers_text)))))
