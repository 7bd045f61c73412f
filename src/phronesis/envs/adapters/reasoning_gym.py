"""reasoning-gym: generators of reasoning problems, each judged by the package's own scorer, out of this process.

The package lives in an environment of its own (``phronesis catalogue setup reasoning-gym``), and its worker in a box of the
sandbox: it reads neither files nor network. A message is an answer; the episode is over after it.

>>> answer_of("So <answer>42</answer>."), answer_of("42"), answer_of("<answer>1</answer> or <answer>2</answer>")
('42', '42', None)
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from phronesis.env import EnvSpec
from phronesis.envs.adapters.catalogues import advice, interpreter
from phronesis.envs.worker.hub import hub, soon
from phronesis.envs.worker.spec import WorkerSpec
from phronesis.envs.worker.tasks import ListedTasks
from phronesis.errors import EnvFault
from phronesis.records import Message, Reply, Task, say
from phronesis.rewards import EnvReward

GUEST = Path(__file__).parent / "guests" / "reasoning_gym_guest.py"
SYSTEM = "Think first if you like. Put the final answer, and nothing else, between <answer> and </answer>."
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)

NO_GOLD = frozenset({"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"})
"""Generators without a reference answer: several are right, and the scorer knows one when it sees it. There is no oracle."""
UNSAFE = (
    "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
    "simple_integration", "spiral_matrix", "string_insertion",
)  # fmt: skip
"""Generators whose scorer executes the answer. Here only an answer that has nothing to execute reaches it; others earn 0."""
PADDED = (
    "fraction_simplification", "game_of_life_halting", "gsm_symbolic", "kakurasu", "knights_knaves", "letter_jumble",
    "quantum_lock", "simple_integration", "sokoban", "spell_backward", "survo", "time_intervals",
)  # fmt: skip
"""Generators whose scorer pays the whole reward for a right answer with words around it."""
ANYTHING = ("game_of_life_halting", "complex_arithmetic", "intermediate_integration")
"""Generators whose scorer can be had without the answer: any text; ``nan``; an integral that is only written down."""


class ReasoningGymEnv:
    """One problem, one answer."""

    def __init__(self, spec: WorkerSpec, generator: dict[str, Any]):
        self.spec, self.generator = spec, generator
        self.task: Task | None = None

    async def reset(self, task: Task, seed: int) -> Reply:
        """Asks the question."""
        self.task = task
        return Reply(messages=(say("system", SYSTEM), *task.messages))

    async def step(self, action: Message) -> Reply:
        """Scores the answer; ``true`` says whether the package holds it wholly right."""
        if self.task is None:
            raise EnvFault("reset comes first")
        answer, payload = answer_of(action.text), self.task.payload
        if answer is None:
            return Reply(done=True, reward=0.0, errors=("no_answer",), metrics={"true": 0.0})
        if hollow(payload["generator"], answer):
            return Reply(done=True, reward=0.0, errors=("hollow_answer",), metrics={"true": 0.0})
        asked = {"generator": self.generator, "index": payload["index"]}
        process = await soon(hub().process(self.spec))
        told = await soon(process.ask("score", {**asked, "answer": answer}))
        reward, refused = float(told["reward"]), str(told["refused"])
        kinds = (f"answer_{refused.split()[0]}",) if refused else ()
        return Reply(done=True, reward=reward, errors=kinds, metrics={"true": float(reward >= 1 - 1e-9)})

    async def close(self) -> None:
        """Nothing to release."""

    async def expert(self) -> Message:
        """The package's reference answer."""
        if self.task is None or not isinstance(self.task.payload["answer"], str):
            raise EnvFault("this generator gives no reference answer")
        return say("assistant", f"<answer>{self.task.payload['answer']}</answer>")


def answer_of(text: str) -> str | None:
    """The one final answer of a message: what stands between the tags, or all of it; None if empty, or several that differ."""
    found = set(_ANSWER.findall(text))
    if len(found) > 1 or (not found and "<answer>" in text):
        return None
    answer = str(found.pop() if found else text)
    return answer if answer.strip() else None


def hollow(generator: str, answer: str) -> bool:
    """Whether a scorer that can be had without the answer would be. Such answers earn 0.

    >>> hollow("game_of_life_halting", "it halts"), hollow("complex_arithmetic", "nan"), hollow("chain_sum", "nan")
    (True, True, False)
    """
    if generator == "game_of_life_halting":
        return answer.strip() not in ("True", "False")
    return generator == "complex_arithmetic" and re.search("nan|inf", answer, re.IGNORECASE) is not None


def make(
    dataset: str = "chain_sum",
    difficulty: int | None = None,
    seed: int = 0,
    parts: str = "chain_sum,leg_counting",
    python: str = "",
    isolated: bool = True,
) -> EnvSpec:
    """One generator of reasoning-gym.

    Args:
        dataset: its name, e.g. ``chain_sum``; ``composite`` mixes `parts`.
        difficulty: level of its curriculum, from 0; None takes the package's default settings.
        seed: of the generator; keep the one of an evaluation secret, or its answers can be computed.
        parts: generators of ``composite``, separated by commas.
        python: interpreter that has the package; that of the catalogue's own environment by default.
        isolated: generate and score in a box of the sandbox. Without it, scorers run as this user.

    Raises:
        ConfigError: not installed, no such generator, or no such level.
        SandboxUnavailable: isolated, and this machine cannot.
    """
    generator: dict[str, Any] = {"dataset": dataset, "level": difficulty, "seed": seed}
    generator["parts"] = [part.strip() for part in parts.split(",")]
    worker = WorkerSpec(
        name="reasoning-gym",
        python=interpreter("reasoning-gym", python),
        guest=GUEST,
        isolated=isolated,
        seconds=60.0,
        install=advice("reasoning-gym"),
    )
    tasks = ListedTasks("reasoning_gym", worker, endless=True, about={"generator": generator})
    return EnvSpec(
        name="reasoning_gym",
        make=lambda: ReasoningGymEnv(worker, generator),
        task=tasks.task,
        sizes=tasks.sizes,
        rubric=EnvReward(by="episode", name="success", audit_metrics=("true",)),
        description=f"reasoning-gym, {dataset}: one question, one answer between tags",
        max_turns=1,
        oracle_reward=None if dataset in NO_GOLD else 1.0,
        hint=lambda task: f"The answer is: {task.payload['answer']}",
        secrets=("answer",),
    )
