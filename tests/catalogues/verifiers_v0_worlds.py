"""Runs in the environment of verifiers before v1: three environments as people write them, and the package's own scores."""

import asyncio
import json
import os
import sys

import verifiers as vf
from datasets import Dataset


def rows(count: int = 24, offset: int = 0) -> Dataset:
    numbers = range(offset, offset + count)
    return Dataset.from_list(
        [{"question": f"What is {n} + {n + 3}?", "answer": str(2 * n + 3), "info": {"n": n}} for n in numbers]
    )


def exact(completion, answer) -> float:
    return float(str(completion[-1].content).strip() == answer)


def near(completion, answer) -> float:
    """A tenth for an answer that is off by one."""
    said = str(completion[-1].content).strip()
    return float(said.lstrip("-").isdigit() and abs(int(said) - int(answer)) == 1)


async def length(completion) -> float:
    return float(len(str(completion[-1].content)))


class Countdown(vf.MultiTurnEnv):
    """Say the number, then one less, down to its half; a wrong one ends it."""

    async def setup_state(self, state):
        state["next"], state["right"] = int(state["answer"]), 0

    async def env_response(self, messages, state, **kwargs):
        said = str(messages[-1].content).strip()
        if said != str(state["next"]):
            state["over"] = True
            return [{"role": "user", "content": "wrong"}]
        state["right"] += 1
        state["next"] -= 1
        return [{"role": "user", "content": "and then?"}]

    @vf.stop
    async def three_right(self, state) -> bool:
        return state["right"] >= 2 and len(state["trajectory"]) >= 3

    @vf.stop
    async def gone_wrong(self, state) -> bool:
        return state.get("over", False)


def rightly(state) -> float:
    return state["right"] / 2


def double(number: int) -> int:
    """Doubles a number.

    Args:
        number: what to double.
    """
    if number > 1000:
        raise ValueError("too large")
    return 2 * number


def reset(number: int) -> int:
    """A tool that reaches for the episode."""
    return number


def load_environment(kind: str = "single"):
    rubric = vf.Rubric(funcs=[exact, near, length], weights=[1.0, 0.1, 0.0])
    if kind == "single":
        return vf.SingleTurnEnv(
            dataset=rows(), eval_dataset=rows(8, 100), system_prompt="Answer with the number.", rubric=rubric
        )
    if kind == "multi":
        return Countdown(dataset=rows(), max_turns=5, rubric=vf.Rubric(funcs=[rightly]))
    tools = [double] if kind == "tool" else [double, reset]
    return vf.ToolEnv(dataset=rows(), tools=tools, max_turns=4, rubric=rubric)


class Scripted(vf.Client):
    """Says texts and calls in order."""

    def __init__(self, said):
        self._config, self.said = None, iter(said)

    async def get_response(self, prompt, *rest, **more):
        from verifiers.types import Response, ResponseMessage, ToolCall

        text, calls = next(self.said)
        made = [ToolCall(id=f"call_{i}", name=n, arguments=json.dumps(a)) for i, (n, a) in enumerate(calls)]
        message = ResponseMessage(content=text, tool_calls=made or None, finish_reason="stop", is_truncated=False)
        return Response(id="x", created=0, model="m", message=message)


Scripted.__abstractmethods__ = frozenset()


async def reference(kind: str, said) -> list[float]:
    """What the package's own rollout and rubric give."""
    env = load_environment(kind)
    found = []
    for row, words in zip(env.get_dataset(), said, strict=False):
        state = await env.rollout(dict(row), Scripted(words), "m", {})
        await env.rubric.score_rollout(state)
        found.append(float(state["reward"]))
    return found


if __name__ == "__main__":
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = json.load(sys.stdin)
    json.dump({kind: asyncio.run(reference(kind, said)) for kind, said in asked.items()}, told)
    told.close()
