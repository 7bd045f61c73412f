"""The tokenizer both sides share: byte-level BPE with 478 entries, learnt from games, with Phronesis' Qwen-style template."""

from __future__ import annotations

import random
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils import get_json_schema

from bench.trl_guess.game import QUESTION
from phronesis.envs.guess_game import GuessNumber
from phronesis.models.tokenizer import train_tokenizer

VOCABULARY = 478


def tool_schema() -> dict[str, Any]:
    """The tool as TRL derives it from the class."""
    return get_json_schema(GuessNumber().guess)


def call_text(digit: int) -> str:
    """What an assistant says to guess `digit`."""
    return f'<tool_call>\n{{"name": "guess", "arguments": {{"number": {digit}}}}}\n</tool_call><|im_end|>'


def reply_text(answer: str) -> str:
    """What follows a call: its answer, and the opening of the next assistant message."""
    return f"\n<|im_start|>user\n<tool_response>\n{answer}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"


def farewell_text(found: bool) -> str:
    """The last message."""
    return ("I found it." if found else "The game is over.") + "<|im_end|>"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Learns the merges from 200 random games and the wording of the question."""
    rng = random.Random(0)
    texts = [QUESTION, str(tool_schema()["function"])]
    for _ in range(200):
        answer = rng.choice(["higher", "lower", "correct"])
        texts.append(call_text(rng.randrange(10)) + reply_text(answer) + farewell_text(answer == "correct"))
    return train_tokenizer(texts, VOCABULARY)
