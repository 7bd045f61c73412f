"""The shared start: a Qwen3-architecture model cloned from uniformly random guessing (mean reward about 0.30).

python -m bench.trl_guess.warm_start OUT --width 64 --layers 2
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from bench.trl_guess.game import CALLS, QUESTION
from bench.trl_guess.tokens import call_text, farewell_text, make_tokenizer, reply_text, tool_schema
from phronesis.envs.guess_game import GuessNumber


def build_model(vocabulary: int, width: int, layers: int, pad_id: int, eos_id: int) -> Qwen3ForCausalLM:
    """A Qwen3 of 4 heads, 2 key-value heads, 3x feed-forward, tied embeddings: 129k parameters at 64x2, 3.3M at 256x4."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=pad_id,
        eos_token_id=eos_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def play(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> tuple[list[int], list[bool]]:
    """One game played with uniform guesses: the ids after the prompt, and which of them the policy said."""
    game = GuessNumber()
    game.reset(secret=rng.randrange(10))
    ids: list[int] = []
    said: list[bool] = []

    def add(text: str, mine: bool) -> None:
        new = tokenizer.encode(text, add_special_tokens=False)
        ids.extend(new)
        said.extend([mine] * len(new))

    while not game.found and game.calls < CALLS:
        number = rng.randrange(10)
        add(call_text(number), True)
        add(reply_text(game.guess(number)), False)
    add(farewell_text(game.found), True)
    return ids, said


def loss_of(model: Qwen3ForCausalLM, prompt: list[int], games: list[tuple[list[int], list[bool]]], pad_id: int) -> torch.Tensor:
    """Mean nats of the tokens the policy said. The prompt they share is computed once."""
    rows, longest = len(games), max(len(ids) for ids, _ in games)
    first = model(input_ids=torch.tensor([prompt]), use_cache=True)
    cache = first.past_key_values
    cache.batch_repeat_interleave(rows)
    ids_BL = torch.tensor([ids + [pad_id] * (longest - len(ids)) for ids, _ in games])
    said_BL = torch.tensor([said + [False] * (longest - len(said)) for _, said in games])
    rest_BLV = model(input_ids=ids_BL, past_key_values=cache, use_cache=True).logits
    before_BLV = torch.cat([first.logits[:, -1:].expand(rows, -1, -1), rest_BLV[:, :-1]], dim=1)
    return cross_entropy(before_BLV[said_BL], ids_BL[said_BL])


def clone(
    model: Qwen3ForCausalLM, prompt: list[int], games: list[tuple[list[int], list[bool]]], steps: int, pad_id: int, seed: int
) -> float:
    """Supervised learning on what the policy said; returns the mean loss of the last 20 steps in nats a token."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 20) * (1.0 - 0.95 * s / steps))
    losses: list[float] = []
    for _ in range(steps):
        loss = loss_of(model, prompt, rng.sample(games, 32), pad_id)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return sum(losses[-20:]) / 20


def make(out: Path, width: int, layers: int, steps: int, seed: int) -> None:
    """Writes tokenizer and model to `out` in Hugging Face format."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tools=[tool_schema()], add_generation_prompt=True, return_dict=False
    )
    pad_id, eos_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model = build_model(len(tokenizer), width, layers, pad_id, eos_id)
    rng = random.Random(seed)
    games = [play(tokenizer, rng) for _ in range(4000)]
    spoken = sum(sum(said) for _, said in games) / len(games)
    print(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer)}")
    print(f"prompt {len(prompt)} tokens, {spoken:.1f} tokens said per game")
    loss = clone(model, list(prompt), games, steps, pad_id, seed)
    print(f"cloning loss {loss:.4f} nats a token after {steps} steps")
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = pad_id, eos_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    make(given.out, given.width, given.layers, given.steps, given.seed)


if __name__ == "__main__":
    main(sys.argv[1:])
