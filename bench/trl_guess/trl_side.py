"""The peer's side, run by the peer's own interpreter: TRL's GRPOTrainer(environment_factory=...).

.venv-trl/bin/python -m bench.trl_guess.trl_side CHECKPOINT OUT.json --rollouts 32 --steps 15 --lr 1e-6
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from bench.trl_guess.game import CALLS, GROUP, QUESTION, secrets


def game_class() -> type:
    """`GuessNumber`, read from its file: the peer's environment does not hold Phronesis, and the class needs only Python."""
    path = Path(__file__).parents[2] / "src" / "phronesis" / "envs" / "guess_game.py"
    spec = importlib.util.spec_from_file_location("guess_game", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.GuessNumber


class Clock(TrainerCallback):
    """CPU and wall seconds of every step, with what the trainer logged for it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.generation = 0.0
        self._start = (0.0, 0.0, 0.0)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Called before the step's rollouts are generated."""
        self._start = (time.process_time(), time.perf_counter(), self.generation)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called after the optimiser's step."""
        cpu, wall, generation = self._start
        self.steps.append(
            {
                "cpu_s": time.process_time() - cpu,
                "wall_s": time.perf_counter() - wall,
                "generation_cpu_s": self.generation - generation,
            }
        )

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        """Adds reward, sampled tokens and calls of the step."""
        if logs and "reward" in logs and self.steps:
            self.steps[-1] |= {
                "reward": logs["reward"],
                "sampled_tokens": logs["completions/mean_length"],
                "calls": logs.get("tools/call_frequency", 0.0),
            }


def train(checkpoint: Path, rollouts: int, steps: int, lr: float, seed: int, limit: int) -> list[dict[str, float]]:
    """Trains and returns one entry a step."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    # TRL reads tool calls by a response template. It knows the templates of published models by their exact text; this
    # tokenizer's is another text of the same format, so the right response template is named here.
    tokenizer.response_template = trl.chat_template_utils.qwen3_template
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    rows = [{"prompt": [{"role": "user", "content": QUESTION}], "secret": secret} for secret in secrets(4096, seed)]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            args=GRPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                per_device_train_batch_size=rollouts,
                num_generations=GROUP,
                max_completion_length=limit,
                max_tool_calling_iterations=CALLS,
                loss_type="dr_grpo",
                scale_rewards="none",
                learning_rate=lr,
                lr_scheduler_type="constant",
                max_steps=steps,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=seed,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            environment_factory=game_class(),
            callbacks=[clock],
        )
        generate = trainer._generate

        def timed(prompts: list[Any]) -> Any:
            start = time.process_time()
            result = generate(prompts)
            clock.generation += time.process_time() - start
            return result

        trainer._generate = timed
        trainer.train()
    for entry in clock.steps:
        entry["sampled_tokens"] = entry.get("sampled_tokens", 0.0) * rollouts
    return clock.steps


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--lr", type=float, default=1e-6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=220, help="completion tokens of an episode, replies included")
    given = parser.parse_args(arguments)
    entries = train(given.checkpoint, given.rollouts, given.steps, given.lr, given.seed, given.limit)
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(
        json.dumps({"side": "trl", "versions": versions, "lr": given.lr, "seed": given.seed, "steps": entries}, indent=1)
    )


if __name__ == "__main__":
    main(sys.argv[1:])
