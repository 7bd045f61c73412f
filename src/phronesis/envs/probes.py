"""Four tiny worlds for learning tests. Each adds exactly one difficulty, and the optimum of each is 1.

| probe | difficulty added | chance |
|---|---|---|
| bandit | one decision, always the same best answer | mean of the arms |
| copy | the best answer depends on the prompt | 1/k |
| memory | the answer is asked for one turn later | 1/k |
| recovery | the reward comes late, and only after a failed look-up is tried again | below 1/k |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from phronesis.env import EnvSpec
from phronesis.envs.native import from_env
from phronesis.envs.tool_env import Opening, Outcome, ToolEnv
from phronesis.envs.trl_style import calling
from phronesis.errors import ConfigError
from phronesis.records import Message, Reply, Task, say
from phronesis.tool import Tool, as_tool, tool

LETTERS = "abcdefgh"
"""Answers; single characters, so that most tokenizers make one token of each."""
ARMS = (0.2, 1.0, 0.4, 0.0)
"""Rewards of the bandit's arms a, b, c, d: best 1, mean 0.4."""

Kind = Literal["bandit", "copy", "memory"]


class LetterEnv:
    """Answer with one letter. A bandit pays per letter; the others pay for the letter the task names."""

    def __init__(self, kind: Kind, letters: str):
        self.kind, self.letters = kind, letters
        self.wanted = ""
        self.waiting = False

    async def reset(self, task: Task, seed: int) -> Reply:
        """Opens with the task's messages."""
        self.wanted = str(task.payload.get("letter", "b"))
        self.waiting = self.kind == "memory"
        return Reply(messages=task.messages, state_key=f"{self.wanted}/{self.waiting}")

    async def step(self, action: Message) -> Reply:
        """Pays for the letter; the memory probe first asks for it."""
        if self.waiting:
            self.waiting = False
            return Reply(messages=(say("user", "Which letter was it?"),), state_key=f"{self.wanted}/asked")
        answer = action.text.strip()
        errors = () if len(answer) == 1 and answer in self.letters else ("no_letter",)
        if self.kind == "bandit":
            earned = ARMS[self.letters.index(answer)] if not errors else 0.0
        else:
            earned = float(answer == self.wanted)
        return Reply(reward=earned, done=True, errors=errors, state_key="end")

    async def close(self) -> None:
        """Nothing to release."""

    async def legal(self) -> Sequence[Message]:
        """Every letter."""
        return [say("assistant", letter) for letter in self.letters]

    async def expert(self) -> Message:
        """The letter that pays most; anything while it is not asked for."""
        return say("assistant", self.letters[0] if self.waiting else self.wanted)


class RecoveryEnv(ToolEnv):
    """A code is behind a look-up that is busy at first; only the final answer pays."""

    def __init__(self, letters: str):
        super().__init__()
        self.letters = letters
        self.wanted, self.busy, self.known = "", 0, False

    async def begin(self, task: Task, seed: int) -> Opening:
        """Offers `look`."""
        self.wanted, self.busy, self.known = str(task.payload["letter"]), int(task.payload["busy"]), False
        return Opening(task.messages, (self._look(),), self._key())

    async def settle(self, action: Message, outcome: Outcome | None) -> Reply:
        """A message without a call is the answer."""
        if outcome is not None:
            return Reply(state_key=self._key())
        return Reply(reward=float(action.text.strip() == self.wanted), done=True, state_key="end")

    async def legal(self) -> Sequence[Message]:
        """Looking, or answering with any letter."""
        return [calling("look", {}), *(say("assistant", letter) for letter in self.letters)]

    async def expert(self) -> Message:
        """Looks until the letter is known, then says it."""
        return say("assistant", self.wanted) if self.known else calling("look", {})

    def _key(self) -> str:
        return f"{self.wanted}/{self.busy}/{self.known}"

    def _look(self) -> Tool:
        @tool(effect="pure")
        def look() -> str:
            """Looks at the letter. May be busy; then look again."""
            if self.busy > 0:
                self.busy -= 1
                return "busy"
            self.known = True
            return self.wanted

        return as_tool(look)


def bandit() -> EnvSpec:
    """One prompt, four letters with rewards 0.2, 1, 0.4 and 0: the smallest thing that can be learnt."""
    opening = (say("user", "Say a, b, c or d."),)
    tasks = {split: [Task(id=f"{split}-0", env="probe-bandit", messages=opening, split=split)] for split in _SPLITS}
    spec = from_env(lambda: LetterEnv("bandit", "abcd"), tasks, name="probe-bandit", max_turns=1, thread=False)
    return _promise(spec, chance=sum(ARMS) / len(ARMS), tasks=1)


def copy(letters: int = 4) -> EnvSpec:
    """Say the letter the prompt names: the best answer depends on the context."""
    return _letter_probe("copy", "Say {letter}.", letters, max_turns=1)


def memory(letters: int = 4) -> EnvSpec:
    """The prompt names a letter; it is asked for one turn later."""
    return _letter_probe("memory", "Remember {letter}. Say ok.", letters, max_turns=2)


def recovery(letters: int = 4, busy: int = 1) -> EnvSpec:
    """Look up a letter (busy at first: look again), then say it; only the answer pays.

    Args:
        letters: how many letters there are, in [2, 8].
        busy: look-ups that fail before one succeeds, in [0, 8].
    """
    if not 0 <= busy <= 8:
        raise ConfigError(f"probe-recovery needs busy in [0, 8], got {busy!r}")
    chosen = _letters(letters)
    opening = (say("user", "Look up the letter, then say it."),)
    tasks = {split: [_task("recovery", split, c, opening, busy=busy) for c in chosen] for split in _SPLITS}
    spec = from_env(lambda: RecoveryEnv(chosen), tasks, name="probe-recovery", max_turns=busy + 3, thread=False)
    # A random agent answers sooner or later with a letter it did not look at: right once in `letters` times, less when it
    # still looks when the turns run out.
    return replace(_promise(spec, chance=1 / letters, tasks=letters), secrets=("letter",))


_SPLITS = ("train", "heldout")


def _letters(count: int) -> str:
    if not 2 <= count <= len(LETTERS):
        raise ConfigError(f"a letter probe needs 2 to {len(LETTERS)} letters, got {count!r}")
    return LETTERS[:count]


def _task(kind: str, split: str, letter: str, opening: tuple[Message, ...], *, busy: int = 0) -> Task:
    payload: dict[str, object] = {"letter": letter}
    if kind == "recovery":
        payload["busy"] = busy
    return Task(id=f"{split}-{letter}", env=f"probe-{kind}", messages=opening, split=split, payload=payload)


def _letter_probe(kind: Kind, prompt: str, letters: int, *, max_turns: int) -> EnvSpec:
    chosen = _letters(letters)
    tasks = {split: [_task(kind, split, c, (say("user", prompt.format(letter=c)),)) for c in chosen] for split in _SPLITS}
    spec = from_env(lambda: LetterEnv(kind, chosen), tasks, name=f"probe-{kind}", max_turns=max_turns, thread=False)
    return _promise(spec, chance=1 / letters, tasks=letters)


def _best(task: Task) -> str:
    """The letter that pays most."""
    return str(task.payload.get("letter", LETTERS[ARMS.index(max(ARMS))]))


def _promise(spec: EnvSpec, *, chance: float, tasks: int) -> EnvSpec:
    return replace(spec, hint=_best, oracle_reward=1.0, null_reward=0.0, chance_reward=chance, oracle_tasks=tasks)
