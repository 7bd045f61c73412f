"""Serves a module with ``load_environment``, of verifiers before v1: the package's own rollout, whose model is the host."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any, cast

Foreign = Any
"""Something of the package."""


class Rollout:
    """One rollout of the package, stopped wherever it waits for its model."""

    def __init__(self, served: VerifiersV0, row: dict[str, Any]):
        self.served = served
        self.asked: asyncio.Queue[list[Foreign]] = asyncio.Queue()
        self.said: asyncio.Queue[Foreign] = asyncio.Queue()
        self.shown = 0
        self.state: Foreign = None
        env = served.env
        self.task = served.loop.create_task(env.rollout(row, served.client(self), "policy", {}))

    def advance(self) -> list[Foreign] | None:
        """Runs until the model is asked, and gives all messages of the prompt; None when it has ended."""
        return self.served.loop.run_until_complete(self._advance())

    async def _advance(self) -> list[Foreign] | None:
        asked = asyncio.ensure_future(self.asked.get())
        await asyncio.wait([asked, self.task], return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        asked.cancel()
        self.state = self.task.result()
        return None

    def drop(self) -> None:
        """Gives it up."""
        if not self.task.done():
            self.task.cancel()
            self.served.loop.run_until_complete(asyncio.gather(self.task, return_exceptions=True))


class VerifiersV0:
    """One module, many rollouts."""

    def __init__(self, module: str, args: dict[str, Any]):
        wrong = globals()["Wrong"]
        self.vf = importlib.import_module("verifiers")
        if not hasattr(self.vf, "SingleTurnEnv"):
            raise wrong("this is verifiers v1, which has no load_environment of the old kind; use the catalogue 'verifiers-v0'")
        self.types = importlib.import_module("verifiers.types")
        self.clients = importlib.import_module("verifiers.clients")
        logging.disable(logging.WARNING)
        found = imported(module)
        if not hasattr(found, "load_environment"):
            raise wrong(f"{module!r} has no function load_environment")
        self.env = found.load_environment(**args)
        if not isinstance(self.env, self.vf.MultiTurnEnv):
            raise wrong(f"{type(self.env).__name__} is none of SingleTurnEnv, MultiTurnEnv, ToolEnv and their kind")
        self.loop = asyncio.new_event_loop()
        self.rollouts: dict[str, Rollout] = {}
        self.rows = {split: self._rows(split) for split in ("train", "heldout")}
        tools = cast("list[Foreign]", getattr(self.env, "tool_defs", None) or [])
        self.tools = [{"name": t.name, "description": t.description, "parameters": t.parameters} for t in tools]

    def hello(self) -> dict[str, Any]:
        """Version, and how many tasks each split has."""
        return {
            "package": "verifiers",
            "version": importlib.metadata.version("verifiers"),
            "turns": getattr(self.env, "max_turns", -1),
            "sizes": {split: len(rows) for split, rows in self.rows.items()},
        }

    def list_tasks(self, start: int, count: int) -> dict[str, Any]:
        """Rows of the data set; those of the evaluation set come after those for training."""
        flat = [(split, row) for split, rows in self.rows.items() for row in rows]
        found: list[dict[str, Any]] = []
        for split, row in flat[start : start + count]:
            payload = {"row": row, "answer": row.get("answer", "")}
            content = [row.get("prompt"), row.get("question"), row.get("answer")]
            task: dict[str, Any] = {"messages": [], "payload": payload, "content": json.loads(json.dumps(content, default=str))}
            found.append({**task, "split": split} if self.rows["heldout"] else task)
        return {"tasks": found}

    def reset(self, episode: str, task: dict[str, Any], seed: int) -> dict[str, Any]:
        """Starts the package's rollout of a row."""
        self.rollouts[episode] = rollout = Rollout(self, task["payload"]["row"])
        return {**self._told(rollout), "tools": self.tools}

    def step(self, episode: str, text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """Answers for the model."""
        rollout = self.rollouts[episode]
        made = [self.types.ToolCall(id=c["id"], name=c["name"], arguments=json.dumps(c["arguments"])) for c in calls]
        message = self.types.ResponseMessage(
            content=text, tool_calls=made or None, finish_reason="tool_calls" if made else "stop", is_truncated=False
        )
        response = self.types.Response(
            id=f"r{len(rollout.state or ())}", created=int(time.time()), model="policy", message=message
        )
        rollout.said.put_nowait(response)
        return self._told(rollout)

    def close(self, episode: str) -> dict[str, Any]:
        """Gives a rollout up."""
        rollout = self.rollouts.pop(episode, None)
        if rollout is not None:
            rollout.drop()
        return {}

    def client(self, rollout: Rollout) -> Foreign:
        """A client of the package whose model is the host."""

        class Host(self.clients.Client):
            def __init__(self) -> None:
                self._config = None

            async def get_response(self, prompt: Foreign, *rest: object, **more: object) -> Foreign:
                rollout.asked.put_nowait(list(prompt))
                return await rollout.said.get()

        Host.__abstractmethods__ = frozenset()  # nothing else of it is used
        return Host()

    def _told(self, rollout: Rollout) -> dict[str, Any]:
        prompt = rollout.advance()
        if prompt is not None:
            new = [plain_message(m) for m in prompt[rollout.shown :] if _role(m) != "assistant" or not rollout.shown]
            rollout.shown = len(prompt) + 1  # what will be said is not told again
            return {"messages": new}
        state = rollout.state
        if state.get("error") is not None:
            raise RuntimeError(f"the rollout failed: {state['error']!r}")
        self.loop.run_until_complete(self.env.rubric.score_rollout(state))
        new = [plain_message(m) for m in cast("list[Foreign]", state.get("final_env_response") or [])]
        metrics = cast("dict[str, object]", state.get("metrics") or {})
        return {
            "done": True,
            "truncated": state.get("stop_condition") == "max_turns_reached" and self.env.max_turns > 1,
            "messages": new,
            "reward": float(state["reward"]),
            "metrics": {n: v for n, v in metrics.items() if isinstance(v, int | float)},
        }

    def _rows(self, split: str) -> list[dict[str, Any]]:
        env = self.env
        empty: list[dict[str, Any]] = []
        found = cast("list[dict[str, Any]]", env.get_dataset() if split == "train" else empty)
        if split == "heldout" and has_own_evaluation(env):
            found = cast("list[dict[str, Any]]", env.get_eval_dataset())
        return [json.loads(json.dumps(dict(row), default=str)) for row in found]


def has_own_evaluation(env: Foreign) -> bool:
    """Whether there is an evaluation set beside the training set."""
    return getattr(env, "eval_dataset", None) is not None or getattr(env, "eval_dataset_source", None) is not None


def _role(message: Foreign) -> str:
    return str(cast("dict[str, object]", message)["role"] if isinstance(message, dict) else message.role)


def plain_message(message: Foreign) -> dict[str, Any]:
    """A message of the package as ours: text alone."""
    found = cast("dict[str, Any]", message if isinstance(message, dict) else message.model_dump())
    content = found.get("content") or ""
    text = content if isinstance(content, str) else "".join(str(p.get("text", "")) for p in content)
    return {"role": found["role"], "content": text, "tool_call_id": found.get("tool_call_id"), "name": found.get("name")}


def imported(module: str) -> Foreign:
    """The module of a name, or in a file."""
    if not module.endswith(".py"):
        return importlib.import_module(module.replace("-", "_"))
    path = Path(module)
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise globals()["Wrong"](f"there is no file {module!r}")
    found = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = found
    try:
        spec.loader.exec_module(found)
    except PermissionError as error:
        text = f"{error}; in a box it is read by nobody in particular: let others read its folder, or say isolated=false"
        raise globals()["Wrong"](text) from error
    return found


def catalogue(module: str, args: dict[str, Any]) -> VerifiersV0:
    """Opens a module."""
    return VerifiersV0(module, args)
