"""Runs in the environment of verifiers v1: a taskset as people write them, with tools, a stop, and rewards of two weights."""

import json
import os
import sys

import verifiers.v1 as vf


class ShelfConfig(vf.TasksetConfig):
    tasks: int = 24


class Data(vf.TaskData):
    answer: str
    number: int


class Shelf(vf.State):
    looks: int = 0


class Looking(vf.Toolset[vf.ToolsetConfig, Shelf]):
    TOOL_PREFIX = "shelf"

    @vf.tool
    async def look(self, place: int) -> str:
        """What lies at a place of the shelf."""
        self.state.looks += 1
        if place > 99:
            raise ValueError("the shelf has 100 places")
        return f"a box with the number {place * place + 1}"


class ShelfTask(vf.Task[Data, Shelf, vf.TaskConfig]):
    @classmethod
    def toolsets(cls, config):
        return [Looking(vf.ToolsetConfig())]

    async def setup(self, trace, runtime):
        trace.info["begun"] = True

    @vf.stop
    async def looked_too_often(self, trace) -> bool:
        return trace.state.looks >= 4

    @vf.reward(weight=1.0)
    async def right(self, task, trace) -> float:
        return float(trace.last_reply == task.answer)

    @vf.reward(weight=0.25)
    async def frugal(self, trace) -> float:
        return float(trace.state.looks <= 1 and trace.info.get("begun", False))

    @vf.metric
    async def looks(self, trace) -> float:
        return float(trace.state.looks)


class ShelfTaskset(vf.Taskset[ShelfTask, ShelfConfig]):
    def load(self):
        for n in range(self.config.tasks):
            prompt = f"What number is on the box at place {n}?"
            data = Data(prompt=prompt, system_prompt="Say the number alone.", answer=str(n * n + 1), number=n)
            yield ShelfTask(data)


__all__ = ["ShelfTaskset"]


async def reference(said) -> list[float]:
    """What the package's own scoring gives for a last message and a number of looks."""
    from verifiers.v1.graph import MessageNode
    from verifiers.v1.trace import AgentInfo, TraceTask
    from verifiers.v1.types import AssistantMessage, UserMessage

    found = []
    for task, (text, looks) in zip(ShelfTaskset(ShelfConfig()), said, strict=True):
        trace = vf.Trace(task=TraceTask(type="ShelfTask", data=task.data), agent=AgentInfo(config=vf.AgentConfig()))
        trace.state = Shelf(looks=looks)
        trace.nodes = [
            MessageNode(message=UserMessage(content=task.data.prompt)),
            MessageNode(parent=0, message=AssistantMessage(content=text), sampled=True),
        ]
        await task.setup(trace, None)
        await task.score(trace)
        found.append(trace.reward)
    return found


if __name__ == "__main__":
    import asyncio

    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump(asyncio.run(reference(json.load(sys.stdin))), told)
    told.close()
