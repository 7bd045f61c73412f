"""A small policy on a vLLM server with the decoder its weights come from, and a world of several turns that asks nothing."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from phronesis.chat.qwen import QwenFormat
from phronesis.engine.embedded import EmbeddedEngine
from phronesis.engine.vllm.config import VLLMConfig
from phronesis.engine.vllm.fleet import Fleet
from phronesis.env import EnvSpec
from phronesis.models import checkpoint
from phronesis.models.tiny import TinyModel, tiny
from phronesis.models.tokenizer import save_tokenizer, train_tokenizer
from phronesis.reason.react import ReAct
from phronesis.records import Reply, Task, say
from phronesis.rewards import EnvReward
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.play import Stage
from phronesis.seeding import rng
from phronesis.train.seat import served

TINY = TinyModel(
    width=64, layers=2, heads=4, kv_heads=2, head_dim=32, mlp_width=128, max_positions=512, embed_std=0.2, matrix_std=0.08
)
WORDS = ("north", "south", "east", "west", "look", "take the lamp", "open the door", "wait")
TOKENIZER = train_tokenizer([*WORDS, "you see a small house", "nothing happens"] * 5, 400)
CHAT = QwenFormat(TOKENIZER)
VOCAB = len(TOKENIZER)


ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = ROOT / os.environ.get("VENV_VLLM", ".venv-vllm") / "bin" / "python"


def settings(**changes) -> VLLMConfig:
    """One small server of two cores at most."""
    return VLLMConfig(
        **{
            "servers": 1,
            "python": str(PYTHON),
            "arguments": ("--max-model-len", "512", "--max-num-seqs", "64", "--enforce-eager"),
            "environment": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"},
            "health_seconds": 0.5,
            "recover_seconds": 600.0,  # a server takes a minute to start, more on a busy machine
        }
        | changes
    )


class Maze:
    """Four turns, whatever is said; each pays the share of letters e in what was said."""

    turns = 4

    async def reset(self, task, seed):
        self.draw, self.at = rng(seed, "maze"), 0
        return Reply(messages=(say("system", "you see a small house"), *task.messages))

    async def step(self, action):
        self.at += 1
        done = self.at == self.turns
        reward = action.text.count("e") / max(len(action.text), 1)
        return Reply(messages=() if done else (say("user", self.draw.choice(WORDS)),), reward=reward, done=done)

    async def close(self):
        pass


def maze() -> EnvSpec:
    """The world."""

    def task(split, index):
        return Task(id=f"{split}-{index}", env="maze", messages=(say("user", WORDS[index % len(WORDS)]),))

    return EnvSpec(name="maze", make=Maze, task=task, rubric=EnvReward(), max_turns=Maze.turns)


class Player:
    """A decoder, its twin in this process, and the engine on the server."""

    def __init__(self, fleet: Fleet, seed: int = 0):
        self.decoder = tiny(TINY, VOCAB, seed)
        self.engine = served(fleet, TOKENIZER, self.decoder, 0)

    @property
    def here(self) -> EmbeddedEngine:
        """Computes in this process with the present weights."""
        return EmbeddedEngine(self.decoder)

    def frozen(self) -> EmbeddedEngine:
        """Computes in this process with what the weights are now, whatever becomes of them."""
        copy = tiny(TINY, VOCAB, 0)
        copy.load_state_dict(self.decoder.state_dict())
        return EmbeddedEngine(copy)

    def change(self, seed: int, scale: float = 0.05) -> None:
        """Moves every weight at random."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.decoder.parameters():
                p.add_(torch.randn(p.shape, generator=generator), alpha=scale)

    def stage(self) -> Stage:
        """Where it plays."""
        limits = Limits(max_turns=Maze.turns, max_turn_tokens=16, context=512, policy_seconds=800.0)
        return Stage(spec=maze(), policy=self.engine, chat=CHAT, agent=ReAct(), limits=limits, sampling=Sampling())


def save(player: Player, folder: Path) -> Path:
    """A checkpoint directory as anybody would write it."""
    checkpoint.save(player.decoder, folder)
    save_tokenizer(TOKENIZER, folder)
    return folder


def off(mine, theirs) -> float:
    """Largest difference."""
    return max((abs(a - b) for a, b in zip(mine, theirs, strict=True)), default=0.0)
