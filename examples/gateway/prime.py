"""A small model that half knows what to do: what you would otherwise take from the hub.

    python prime.py runs/pantry-model

It is taught on conversations of a careless clerk, who often looks up another fact, or another item, than was asked for, and now
and then misreads the answer. So it knows the words, and there is something left to learn.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from agent import FACTS, ITEMS, TOOL, Pantry

from phronesis.chat import format_for
from phronesis.data.traces import encode_all
from phronesis.models import checkpoint
from phronesis.models.tiny import TinyModel, tiny
from phronesis.models.tokenizer import save_tokenizer, train_tokenizer
from phronesis.records import Conversation, Message, TextPart, ToolCall, ToolSpec, say
from phronesis.train.optimizer import AdamWConfig, MuonConfig
from phronesis.train.supervised import SupervisedConfig, fit

FUNCTION = TOOL["function"]
TOOLS = (ToolSpec(name=FUNCTION["name"], description=FUNCTION["description"], parameters=FUNCTION["parameters"]),)


def careless(seed: int, index: int) -> Conversation:
    """One conversation of the clerk: the right fact in 6 of 10, the right item and the right reading in 9 of 10."""
    chance, pantry = random.Random(f"{seed}-{index}"), Pantry("train", 10**6 + index)
    item = pantry.item if chance.random() < 0.9 else chance.choice(ITEMS)
    fact = pantry.fact if chance.random() < 0.4 else chance.choice(FACTS)
    call = ToolCall(id="call_0_0", name="look_up", arguments={"fact": fact, "item": item})
    found = pantry.look_up(fact, item)
    heard = Message(role="tool", content=(TextPart(text=found),), tool_call_id=call.id, name=call.name)
    answer = found if chance.random() < 0.9 else str(chance.randrange(10))
    return Conversation(
        opening=(say("user", pantry.question),),
        tools=TOOLS,
        exchanges=(
            (Message(role="assistant", tool_calls=(call,)), (heard,)),
            (say("assistant", answer), ()),
        ),
    )


def prime(folder: Path, seed: int = 0, conversations: int = 2000) -> None:
    """Makes the model and writes it as an ordinary Hugging Face folder."""
    torch.set_num_threads(1)
    shown = [careless(seed, i) for i in range(conversations)]
    texts = [m.text for c in shown for m in (*c.opening, *(h for s, hs in c.exchanges for h in (s, *hs)))]
    texts += [json.dumps({"name": c.name, "arguments": c.arguments}) for s in shown for c in s.exchanges[0][0].tool_calls]
    texts += [json.dumps(TOOL)] * 50
    tokenizer = train_tokenizer(texts, 480)
    sizes = TinyModel(width=64, layers=3, heads=2, kv_heads=2, head_dim=32, mlp_width=128, max_positions=256, embed_std=0.4)
    decoder = tiny(sizes, len(tokenizer), seed)
    learning = SupervisedConfig(
        batch_tokens=1000, optimizer=MuonConfig(lr=0.03, rest=AdamWConfig(lr=5e-3)), decay="linear", final=0.05, seed=seed
    )
    traces = encode_all(shown, format_for(tokenizer))
    print(f"{len(traces)} traces of {len(traces[0].ids)} tokens, {sum(traces[0].mask)} of them learned")
    fit(decoder, traces, learning, lambda s: None if s.step % 50 else print(f"step {s.step}/{s.steps} loss {s.loss:.3f}"))
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(decoder, folder)
    save_tokenizer(tokenizer, folder)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, help="where the model goes")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    prime(given.folder, given.seed)
