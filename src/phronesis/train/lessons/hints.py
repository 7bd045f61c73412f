"""Where a run's hints come from: a fact in the task's payload, or what the environment itself would tell."""

from __future__ import annotations

from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.records import Task
from phronesis.rollout.hints import Hint


def hint_of(spec: EnvSpec, key: str, text: str, lesson: str) -> Hint:
    """A function from a task to the text its opening ends with.

    Args:
        spec: its `hint` is asked where no key is given.
        key: of the task's payload; empty asks the environment.
        text: the hint, with ``{answer}``.
        lesson: who asks, for messages.

    Raises:
        ConfigError: the environment tells nothing, or its tasks have no such fact.
    """
    silent = [s.name for s in spec.parts.values() or (spec,) if s.hint is None]
    if not key and silent:
        raise ConfigError(
            f"lesson {lesson!r} shows the policy what a task's answer is, and environment {silent[0]!r} tells nothing: name "
            "the fact of the task's payload in lesson.answer, give EnvSpec.hint, or set lesson=none"
        )

    def hint(task: Task) -> str:
        if key:
            if key not in task.payload:
                raise ConfigError(
                    f"task {task.id!r} has no {key!r} in its payload, which lesson.answer names; it has "
                    f"{sorted(task.payload)!r}"
                )
            answer = str(task.payload[key])
        else:
            told = spec.of(task).hint
            assert told is not None  # refused above
            answer = told(task)
        return text.replace("{answer}", answer)

    for each in spec.parts.values() or (spec,):
        hint(each.task("train", 0))
    return hint
