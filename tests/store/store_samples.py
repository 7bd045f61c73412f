"""Episodes for the tests of the store: by hand, and by hypothesis."""

import math

from hypothesis import strategies as st
from msgspec import Struct

from phronesis.records import (
    Component,
    Episode,
    Failure,
    Finish,
    ImagePart,
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
)


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stand-in for a run's config."""

    name: str = "sample"
    """Name."""
    lr: float = 0.1
    """Step size."""


def episode(number: int = 0, *, turns: int = 2, reward: float | None = 1.0, **changes: object) -> Episode:
    played = tuple(
        Turn(
            parent=k - 1 if k else None,
            context=(1, 2, 3) if k == 0 else (7,),
            completion=(4, 5),
            sampled=(True, k == 0),
            logprobs=(-0.25, -1e-9),
            finish=Finish.stop,
            prompt_crc=number,
        )
        for k in range(turns)
    )
    values: dict[str, object] = {
        "id": f"train-{number}",
        "task": Task(id=f"task-{number % 3}", env="ledger", payload={"answer": number}, difficulty=float(number % 2)),
        "seed": number,
        "turns": played,
        "stop": Stop.completed,
        "reward": None if reward is None else Reward(components=(Component(name="success", score=reward),)),
        "step": number // 10,
        "group": f"g{number // 4}",
        "seconds": 0.5,
    }
    return Episode(**(values | changes))  # pyright: ignore


texts = st.text(max_size=6)
floats = st.floats()
"""Every float there is: infinities, NaN, -0.0, subnormal numbers."""
free = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.just("$float") | st.just("$$x"), inner, max_size=3),
    max_leaves=6,
)
tables = st.dictionaries(texts, free, max_size=3)
calls = st.builds(ToolCall, id=texts, name=texts, arguments=tables, error=st.none() | texts)
parts = st.builds(TextPart, text=texts) | st.builds(ImagePart, sha256=texts, media_type=texts)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.lists(parts, max_size=2).map(tuple),
    thought=st.none() | texts,
    tool_calls=st.lists(calls, max_size=2).map(tuple),
)
tools = st.builds(ToolSpec, name=texts, description=texts, parameters=tables)
replies = st.builds(
    Reply,
    messages=st.lists(messages, max_size=2).map(tuple),
    reward=st.none() | floats,
    done=st.booleans(),
    stop=st.none() | st.sampled_from(Stop),
    tools=st.none() | st.lists(tools, max_size=1).map(tuple),
    metrics=st.dictionaries(texts, floats, max_size=2),
)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    size = draw(st.integers(0, 4))

    def column(items: st.SearchStrategy[object]) -> tuple[object, ...]:
        return tuple(draw(st.lists(items, min_size=size, max_size=size)))

    return Turn(
        parent=None,
        context=tuple(draw(st.lists(st.integers(0, 2**31 - 1), max_size=4))),
        completion=column(st.integers(0, 2**31 - 1)),  # pyright: ignore
        sampled=column(st.booleans()),  # pyright: ignore
        logprobs=column(floats),  # pyright: ignore
        entropies=draw(st.none() | st.just(column(floats))),  # pyright: ignore
        finish=draw(st.sampled_from(Finish)),
        spans=(Span(kind="think", start=0, end=size),),
        prompt_crc=draw(st.integers(0, 2**32 - 1)),
        action=draw(st.none() | messages),
        reply=draw(st.none() | replies),
        started=draw(floats),
    )


components = st.builds(Component, name=texts, score=st.none() | floats, weight=floats, audit=st.booleans())
episodes = st.builds(
    Episode,
    id=texts,
    task=st.builds(Task, id=texts, env=texts, messages=st.lists(messages, max_size=1).map(tuple), payload=tables),
    seed=st.integers(0, 2**63 - 1),
    opening=st.lists(messages, max_size=1).map(tuple),
    tools=st.lists(tools, max_size=1).map(tuple),
    turns=st.lists(turns(), max_size=2).map(tuple),
    stop=st.sampled_from(Stop),
    reward=st.none() | st.builds(Reward, components=st.lists(components, max_size=2).map(tuple)),
    failure=st.none() | st.builds(Failure, where=texts, kind=texts, message=texts),
    seconds=floats,
)


def same(a: object, b: object) -> bool:
    """Equality bit for bit: NaN equals NaN, 0.0 differs from -0.0, 1 differs from 1.0 and from True."""
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, Struct):
        return all(same(getattr(a, f), getattr(b, f)) for f in a.__struct_fields__)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b
