"""A realistic run folder without training anything: ledger episodes played by a scripted keeper, curves that rise.

Everything is drawn from one seed, so the folder (but for stamps and versions) is the same each time.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import msgspec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from phronesis.evals.statistics import wilson
from phronesis.policy import prompt_crc
from phronesis.records import (
    Component,
    Episode,
    Failure,
    Finish,
    Message,
    Reply,
    Reward,
    Span,
    Stop,
    Task,
    TextPart,
    ToolCall,
    ToolSpec,
    Turn,
    say,
)
from phronesis.store import Run

NAMES = ("amber", "basalt", "cobalt", "flint", "garnet", "jade", "marble", "nickel", "onyx", "quartz", "slate", "zinc")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
TOOLS = (
    ToolSpec(
        name="lookup",
        description="Look up one account.",
        parameters={"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    ),
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The config of the synthetic run."""

    name: str = "quickstart"
    seed: int = 0
    steps: int = 60
    references: dict[str, float] = msgspec.field(default_factory=lambda: {"optimum": 1.0, "chance": 0.1})


def tokenizer() -> Tokenizer:
    """A small byte-level tokenizer that knows the phrases of the episodes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = ['Find the total of "amber" and "jade".', '{"name": "lookup", "arguments": {"name": "cobalt"}}', "total 12"]
    texts += [f'"{n}" has amount 7. busy, ask again. renamed to "{n}"' for n in NAMES]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(texts * 4, trainer)
    return made


class Player:
    """Plays ledger episodes with a given skill and writes them as an engine would."""

    def __init__(self, skill: float, tokens: Tokenizer):
        self.skill, self.tokens = skill, tokens

    def episode(self, id: str, task_index: int, seed: int) -> Episode:
        world = random.Random(f"task {task_index}")
        level = 1 + task_index % 4
        asked = world.sample(NAMES, 1 + level)
        amounts = {name: world.randint(1, 9) for name in NAMES}
        answer = sum(amounts[n] for n in asked)
        task = Task(
            id=f"ledger-heldout-{task_index}",
            env="ledger",
            messages=(say("user", f"Find the total of {', '.join(repr(n) for n in asked)}."),),
            payload={"answer": answer},
            split="heldout",
            difficulty=float(level),
        )
        luck = random.Random(f"{seed} {task_index} {self.skill}")
        opening = (say("system", "You keep the books. Think briefly, then look up one account at a time."), *task.messages)
        turns: list[Turn] = []
        total = 0
        for name in asked:
            busy = world.random() < 0.25
            for _ in range(2 if busy and luck.random() < self.skill else 1):
                reply = "busy, ask again" if busy else f'"{name}" has amount {amounts[name]}'
                turns.append(self._call(turns, opening, total, name, reply, luck))
                total += 0 if busy else amounts[name]
                busy = False
            if luck.random() > self.skill + 0.15:
                total += luck.choice((-1, 1, 2))
        if luck.random() > self.skill + 0.3:
            turns.append(self._broken(turns, opening, luck))
        turns.append(self._answer(turns, opening, total, luck))
        right = total == answer
        components = (
            Component(
                name="success", score=float(right), answer=str(total), explanation=f"answered {total}; the total is {answer}"
            ),
            Component(name="brevity", score=-0.02 * len(turns), weight=0.5, turn=len(turns) - 1, audit=True),
        )
        return Episode(
            id=id,
            task=task,
            seed=seed,
            opening=opening,
            tools=TOOLS,
            turns=tuple(turns),
            stop=Stop.completed,
            reward=Reward(components=components),
            seconds=0.05 * len(turns),
        )

    def _turn(
        self, turns: list[Turn], opening: tuple[Message, ...], pieces: list[tuple[str, str]], luck: random.Random
    ) -> dict:
        """Ids, spans and probabilities of one completion made of (kind, text) pieces."""
        given = turns[-1].reply.messages[0].text if turns and turns[-1].reply and turns[-1].reply.messages else None
        text = given if given is not None else "\n".join(m.text for m in opening)
        context = self.tokens.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n").ids
        completion: list[int] = []
        spans: list[Span] = []
        for kind, piece in pieces:
            start = len(completion)
            completion += self.tokens.encode(piece).ids
            spans.append(Span(kind=kind, start=start, end=len(completion)))
        sampled = [True] * len(completion)
        if luck.random() < 0.15:
            sampled[-2] = False
        sure = 0.4 + 0.6 * self.skill
        logprobs = [math.log(max(1e-3, 1 - (1 - luck.random() ** 0.3) / sure * 0.6)) for _ in completion]
        return {
            "parent": len(turns) - 1 if turns else None,
            "context": tuple(context),
            "completion": tuple(completion),
            "sampled": tuple(sampled),
            "logprobs": tuple(logprobs),
            "entropies": tuple(min(3.0, -1.4 * p) for p in logprobs),
            "finish": Finish.stop,
            "spans": tuple(spans),
            "prompt_crc": prompt_crc(context),
            "policy_seconds": 0.003 * len(completion),
            "env_seconds": 0.001,
        }

    def _call(
        self, turns: list[Turn], opening: tuple[Message, ...], total: int, name: str, reply: str, luck: random.Random
    ) -> Turn:
        thought = f"total {total}"
        call = f'<tool_call>\n{{"name": "lookup", "arguments": {{"name": "{name}"}}}}\n</tool_call>'
        made = self._turn(
            turns, opening, [("think", f"<think>\n{thought}\n</think>\n"), ("act", call), ("scaffold", "<|im_end|>")], luck
        )
        id = f"call_{len(turns)}_0"
        action = Message(
            role="assistant", thought=thought, tool_calls=(ToolCall(id=id, name="lookup", arguments={"name": name}),)
        )
        answer = Message(role="tool", content=(TextPart(text=reply),), tool_call_id=id, name="lookup")
        return Turn(**made, action=action, reply=Reply(messages=(answer,)))

    def _broken(self, turns: list[Turn], opening: tuple[Message, ...], luck: random.Random) -> Turn:
        made = self._turn(
            turns, opening, [("act", '<tool_call>\n{"name": "lookup", "argum</tool_call>'), ("scaffold", "<|im_end|>")], luck
        )
        id = f"call_{len(turns)}_0"
        call = ToolCall(id=id, name="lookup", arguments={}, error="not a JSON object: unterminated string at column 19")
        answer = Message(role="tool", content=(TextPart(text="error: the call is not JSON"),), tool_call_id=id, name="lookup")
        return Turn(
            **made,
            action=Message(role="assistant", tool_calls=(call,)),
            reply=Reply(messages=(answer,), errors=("malformed_json",)),
        )

    def _answer(self, turns: list[Turn], opening: tuple[Message, ...], total: int, luck: random.Random) -> Turn:
        pieces = [("think", f"<think>\ntotal {total}\n</think>\n"), ("answer", str(total)), ("scaffold", "<|im_end|>")]
        made = self._turn(turns, opening, pieces, luck)
        action = Message(role="assistant", thought=f"total {total}", content=(TextPart(text=str(total)),))
        return Turn(**made, action=action, reply=Reply(done=True))


def curve(step: int, steps: int, seed: int = 0) -> dict[str, float]:
    """Metrics of one step: success rises along a sigmoid, entropy falls, numerics stay sane."""
    noise = random.Random(f"{seed} step {step}")
    progress = 1 / (1 + math.exp(-8 * (step / steps - 0.4)))
    success = min(1.0, max(0.0, 0.24 + 0.68 * progress + noise.gauss(0, 0.05)))
    entropy = 0.62 - 0.42 * progress + noise.gauss(0, 0.02)
    turns = 4.1 + 1.3 * progress + noise.gauss(0, 0.15)
    play, learn = 0.52 + noise.random() * 0.1, 0.31 + noise.random() * 0.06
    sampled, context = 64 * turns * 24, 64 * turns * 19
    return {
        "reward/mean": success,
        "reward/std": math.sqrt(success * (1 - success)),
        "success/rate": success,
        "signal/zero_variance": min(1.0, max(0.0, 0.2 + 0.5 * progress + noise.gauss(0, 0.06))),
        "signal/groups": 8.0,
        "episode/count": 64.0,
        "episode/turns": turns,
        "episode/tokens": 24 * turns,
        "episode/think_tokens": 9 * turns,
        "episode/truncated": max(0.0, 0.12 * (1 - progress) + noise.gauss(0, 0.01)),
        "episode/faults": 1 / 64 if step == 17 else 0.0,
        "episode/tool_errors": max(0.0, 0.5 * (1 - progress) + noise.gauss(0, 0.04)),
        "episode/parse_errors": max(0.0, 0.2 * (1 - progress) + noise.gauss(0, 0.02)),
        "policy/entropy": entropy,
        "policy/entropy_think": entropy * 1.25,
        "policy/entropy_act": entropy * 0.7,
        "update/loss": noise.gauss(-0.01, 0.02),
        "update/grad_norm": 0.9 + 0.5 * (1 - progress) + noise.gauss(0, 0.12),
        "update/kl_k1": noise.gauss(0.0005, 0.0004),
        "update/kl_k3": abs(noise.gauss(0.0009, 0.0002)),
        "update/clip_share": max(0.0, noise.gauss(0.012, 0.004)),
        "update/lr": 4e-4,
        "mismatch/kl": 10 ** noise.gauss(-12, 0.3),
        "mismatch/max_logprob_difference": 10 ** noise.gauss(-5, 0.25),
        "time/play": play,
        "time/learn": learn,
        "speed/play_tokens": sampled / play,
        "speed/learn_tokens": (sampled + context) / learn,
        "tokens/sampled": sampled,
        "tokens/context": context,
    }


def evaluation(episodes: list[Episode], temperature: float = 1.0) -> dict[str, object]:
    """What an evaluation writes into the summary."""
    wins = [e.reward is not None and (e.reward.value or 0) >= 1 for e in episodes if not e.stop.is_fault]
    low, high = wilson(sum(wins), len(wins))
    levels: dict[str, list[bool]] = {}
    for e in episodes:
        if not e.stop.is_fault:
            levels.setdefault(f"{e.task.difficulty:g}", []).append(e.reward is not None and (e.reward.value or 0) >= 1)
    return {
        "success": sum(wins) / len(wins),
        "n": len(wins),
        "ci_low": low,
        "ci_high": high,
        "mean_reward": sum(wins) / len(wins),
        "mean_turns": sum(len(e.turns) for e in episodes) / len(episodes),
        "mean_tokens": sum(e.sampled_tokens for e in episodes) / len(episodes),
        "faults": len(episodes) - len(wins),
        "temperature": temperature,
        "by_difficulty": {k: [sum(v) / len(v), len(v)] for k, v in sorted(levels.items())},
    }


def faulted(episode: Episode) -> Episode:
    """The same episode, ended by a fault of its environment."""
    failure = Failure(
        where="env.step",
        kind="OperationalError",
        message="database is locked",
        traceback='File "world.py", line 41, in lookup\n    row = self._db.execute(sql, (name,)).fetchone()',
    )
    last = msgspec.structs.replace(episode.turns[-1], reply=None)
    return msgspec.structs.replace(
        episode, turns=(*episode.turns[:-1], last), stop=Stop.env_fault, reward=Reward(), failure=failure
    )


def write_run(folder: Path, *, steps: int = 60, heldout: int = 60, finish: bool = True, seed: int = 0) -> Path:
    """Writes a whole run folder and returns it; `finish=False` leaves out the summary, as a run in progress does."""
    tokens = tokenizer()
    with Run.create(folder, Settings(seed=seed, steps=steps), success={"ledger": 1.0}) as run:
        (folder / "checkpoints" / "start").mkdir(parents=True)
        tokens.save(str(folder / "checkpoints" / "start" / "tokenizer.json"))
        for step in range(30):
            run.metrics(
                step, {"prime/loss": 2.6 * math.exp(-step / 7) + 0.22, "prime/accuracy": 0.93 - 0.7 * math.exp(-step / 6)}
            )
        before = [Player(0.45, tokens).episode(f"heldout-{i}-0", i, 1000 + i) for i in range(heldout)]
        for episode in before:
            run.append(episode, "heldout_before")
        for step in range(1, steps + 1):
            run.metrics(step, curve(step, steps, seed))
        if not finish:
            return folder
        after = [Player(0.93, tokens).episode(f"heldout-{i}-0", i, 1000 + i) for i in range(heldout)]
        after[-1] = faulted(after[-1])
        for episode in after:
            run.append(episode, "heldout_after")
        swapped = [Player(0.3, tokens).episode(f"swapped-{i}", i, 1000 + i) for i in range(heldout)]
        greedy = [Player(0.96, tokens).episode(f"greedy-{i}", i, 1000 + i) for i in range(heldout)]
        run.write_summary(
            {
                "name": "quickstart",
                "seed": seed,
                "config_hash": "3f9c2ab417e05d68",
                "heldout_before": evaluation(before),
                "heldout_after": evaluation(after),
                "heldout_after_greedy": evaluation(greedy, 0.0),
                "heldout_swapped": evaluation(swapped),
                "seconds": {
                    "set-up": 2.1,
                    "priming": 58.4,
                    "evaluation before": 6.2,
                    "reinforcement learning": 41.7,
                    "evaluation after": 9.6,
                },
                "episodes": 64 * steps + 4 * heldout,
                "tokens": {"sampled": 412_331, "context": 301_554},
                "speed": {"play_tokens": 14_210, "learn_tokens": 9_870},
                "mismatch_kl": 3.1e-12,
                "max_logprob_difference": 4.2e-5,
            }
        )
    return folder


if __name__ == "__main__":
    import sys

    print(write_run(Path(sys.argv[1]), heldout=int(sys.argv[2]) if len(sys.argv) > 2 else 512))
