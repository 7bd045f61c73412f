"""The rule that nothing hidden reaches the policy: planted values, swapped secrets, bookkeeping."""

from __future__ import annotations

import copy
from typing import Any, cast

import msgspec

from phronesis.envs.check_inspection import SAMPLE, Broken, Inspection
from phronesis.envs.scripted import Played, play_scripted, uniform
from phronesis.records import Reply
from phronesis.seeding import rng, stream

CANARY = "canary-5f2c9e71d0"


async def secrecy(at: Inspection) -> str:
    """What is hidden does not reach the policy before it acts, and bookkeeping never does."""
    for index in range(3):
        played = await at.play(index, uniform(rng(at.seed, "check-secrecy", index)))
        shown = _shown(played)
        for key in {r.state_key for r in (played.opening, *played.replies) if r.state_key and len(r.state_key) >= 12}:
            if key in shown:
                raise Broken(f"the state key {key!r} occurs in what the policy sees")
        for path, number in _large_numbers(at.task(index).payload):
            if str(number) in shown:
                raise Broken(f"the hidden number payload[{path!r}] = {number} occurs in what the policy sees")
    notes = [await _plant(at)]
    for path in at.spec.secrets:
        notes.append(await _swap(at, path))
    if not at.spec.secrets:
        notes.append("no payload key is declared in EnvSpec.secrets, so more cannot be checked")
    return "; ".join(notes)


def _shown(played: Played) -> str:
    replies = (played.opening, *played.replies)
    return "\n".join(msgspec.json.encode([[m.text for m in r.messages], r.tools]).decode() for r in replies)


def _large_numbers(value: object, path: str = "") -> list[tuple[str, int]]:
    """Numbers of seven digits or more: seeds and the like, which have no business in a prompt."""
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return [found for k, v in items for found in _large_numbers(v, f"{path}.{k}" if path else k)]
    if isinstance(value, list):
        return [found for v in cast("list[object]", value) for found in _large_numbers(v, path)]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**6:
        return [(path, value)]
    return []


async def _plant(at: Inspection) -> str:
    """A planted payload value must not surface anywhere."""
    task = at.task(0)
    marked = msgspec.structs.replace(task, payload={**task.payload, "planted": CANARY})
    env = at.spec.make()
    try:
        await at.reset(env, marked, stream(at.seed, "check", 0))
    except Exception as error:
        return f"the environment refuses unknown payload keys ({type(error).__name__})"
    finally:
        await at.close(env)
    played = await play_scripted(
        at.spec, marked, stream(at.seed, "check", 0), uniform(rng(at.seed, "check-plant")), clock=at.clock
    )
    if CANARY in _shown(played):
        raise Broken("a value planted in the payload surfaces in what the policy sees; the payload is printed somewhere")
    return "a planted payload value never surfaced"


async def _swap(at: Inspection, path: str) -> str:
    """Replacing a secret by another task's must leave the opening unchanged."""
    compared = 0
    for index in range(SAMPLE):
        task, other = at.task(index), at.task(index + 1)
        mine, theirs = _at(task.payload, path), _at(other.payload, path)
        if mine == theirs:
            continue
        swapped = msgspec.structs.replace(task, payload=_with(task.payload, path, theirs))
        openings = list[Reply]()
        for variant in (task, swapped):
            env = at.spec.make()
            openings.append(await at.reset(env, variant, stream(at.seed, "check", index)))
            await at.close(env)
        if (openings[0].messages, openings[0].tools) != (openings[1].messages, openings[1].tools):
            raise Broken(f"the opening changes with the secret {path!r} (task {task.id!r}): the policy can read it there")
        compared += 1
    return f"the opening does not depend on {path!r} ({compared} swaps)"


def _at(payload: dict[str, Any], path: str) -> object:
    value: object = payload
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            raise Broken(f"EnvSpec.secrets names {path!r}, which the payload does not have")
        value = cast("dict[str, object]", value)[key]
    return value


def _with(payload: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    changed = copy.deepcopy(payload)
    *parents, last = path.split(".")
    place = changed
    for key in parents:
        place = place[key]
    place[last] = value
    return changed
