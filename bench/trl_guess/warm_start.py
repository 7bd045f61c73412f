"""The shared start: a Qwen3-architecture model cloned from a player who knows bisection and seldom uses it (about 0.30).

A policy that never looks at the answers has nothing to reinforce; this one makes the right move at `SENSIBLE` of its
guesses and otherwise names a number that is already ruled out, so that its mean reward is that of blind guessing.

python -m bench.trl_guess.warm_start OUT --width 64 --layers 2
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from transformers import GenerationConfig, PreTrainedTokenizerFast

from bench.trl_guess.game import CALLS, QUESTION
from bench.trl_guess.tokens import call_text, farewell_text, make_tokenizer, reply_text, tool_schema
from phronesis.data.traces import Trace
from phronesis.envs.guess_game import GuessNumber
from phronesis.models.checkpoint import save
from phronesis.models.tiny import TinyModel, tiny
from phronesis.models.tokenizer import save_tokenizer
from phronesis.train.optimizer import AdamWConfig, MuonConfig
from phronesis.train.supervised import SupervisedConfig, fit

SENSIBLE = 0.38
"""Share of guesses that halve what is left; 0.38 gives the player a mean reward of 0.30, its clone about 0.28."""


def choose(low: int, high: int, rng: random.Random) -> int:
    """The player's next guess when the answers leave `low` to `high`."""
    ruled_out = [n for n in range(10) if not low <= n <= high] or [0, 1, 2, 7, 8, 9]
    return (low + high) // 2 if rng.random() < SENSIBLE else rng.choice(ruled_out)


def play(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> tuple[list[int], list[bool]]:
    """One game of that player: the ids after the prompt, and which of them the policy said."""
    game = GuessNumber()
    game.reset(secret=rng.randrange(10))
    ids: list[int] = []
    said: list[bool] = []

    def add(text: str, mine: bool) -> None:
        new = tokenizer.encode(text, add_special_tokens=False)
        ids.extend(new)
        said.extend([mine] * len(new))

    while not game.found and game.calls < CALLS:
        number = choose(game.low, game.high, rng)
        add(call_text(number), True)
        add(reply_text(game.guess(number)), False)
    add(farewell_text(game.found), True)
    return ids, said


def make(out: Path, width: int, layers: int, games: int, seed: int) -> None:
    """Writes tokenizer and model to `out` in Hugging Face format."""
    tokenizer = make_tokenizer()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tools=[tool_schema()], add_generation_prompt=True, return_dict=False
    )
    sizes = TinyModel(width=width, layers=layers, heads=4, kv_heads=2, head_dim=width // 4, mlp_width=3 * width, embed_std=0.4)
    model = tiny(sizes, len(tokenizer), seed)
    rng = random.Random(seed)
    played = [play(tokenizer, rng) for _ in range(games)]
    traces = [Trace(ids=(*prompt, *ids), mask=(*(False for _ in prompt), *said)) for ids, said in played]
    config = SupervisedConfig(
        batch_tokens=1500, optimizer=MuonConfig(lr=0.03, rest=AdamWConfig(lr=5e-3)), decay="linear", final=0.05
    )
    learned = fit(model, traces, config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}")
    print(f"prompt {len(prompt)} tokens, {sum(sum(s) for _, s in played) / len(played):.1f} tokens said per game")
    print(f"loss {learned.loss:.4f} nats a token after {learned.steps} steps")
    save(model, out)
    save_tokenizer(tokenizer, out)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id).save_pretrained(out)


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--games", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    make(given.out, given.width, given.layers, given.games, given.seed)


if __name__ == "__main__":
    main(sys.argv[1:])
