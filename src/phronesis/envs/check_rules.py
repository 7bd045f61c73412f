"""The rules an environment is checked against. A rule returns what it found, or raises `Broken` or `NotApplicable`."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from typing import cast

import msgspec

from phronesis.env import Env, Expert, Legal, Snapshots, Speaker
from phronesis.envs.check_actions import BAD_ACTIONS, bad_calls
from phronesis.envs.check_inspection import SAMPLE, Broken, Inspection, NotApplicable
from phronesis.envs.check_secrecy import secrecy
from phronesis.envs.scripted import expert, recorded, reward_of, silent, uniform
from phronesis.records import Message, Reply, Task, ToolSpec
from phronesis.seeding import rng

RANDOM_EPISODES = 200
"""Most episodes of the random agent."""
CHEAT_TASKS = 4
"""Tasks that a planted weakness is used on."""
AGENT_SECONDS = 1.5
"""Time for each scripted agent; at least ten episodes are played."""


async def tasks(at: Inspection) -> str:
    """The same task for the same arguments, well-formed, with distinct ids."""
    spec, count, seen = at.spec, 0, set[tuple[str, str]]()
    for split, size in spec.sizes.items():
        for index in range(min(SAMPLE, SAMPLE if size is None else size)):
            first, second = spec.task(split, index), spec.task(split, index)
            if first != second:
                raise Broken(f"task({split!r}, {index}) gives another task each time; derive it from (split, index) alone")
            if first.env != spec.name or first.split != split:
                raise Broken(f"task({split!r}, {index}) says env {first.env!r}, split {first.split!r}; expected {spec.name!r}")
            if (split, first.id) in seen:
                raise Broken(f"two tasks of split {split!r} share the id {first.id!r}")
            seen.add((split, first.id))
            msgspec.json.decode(msgspec.json.encode(first), type=Task)
            count += 1
    return f"{count} tasks over {len(spec.sizes)} splits: equal for equal arguments, JSON, distinct ids"


async def splits(at: Inspection) -> str:
    """No problem lies in two splits."""
    keys: dict[str, set[str]] = {}
    for split, size in at.spec.sizes.items():
        found = [at.spec.task(split, i).content_key for i in range(min(200, 200 if size is None else size))]
        if any(k is None for k in found):
            raise NotApplicable("content keys are not computed, so a held-out score may be about problems already seen")
        keys[split] = {k for k in found if k is not None}
    names = sorted(keys)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            if shared := keys[a] & keys[b]:
                raise Broken(f"{len(shared)} of the first 200 problems lie in both {a!r} and {b!r}, e.g. {min(shared)}")
    return f"no content key in two of {', '.join(names)} ({sum(map(len, keys.values()))} compared)"


async def opening(at: Inspection) -> str:
    """Equal seeds give equal openings; the tools are well-formed."""
    for index in range(4):
        (one, first), (two, second) = await at.open(index), await at.open(index)
        await at.close(one)
        await at.close(two)
        if first != second:
            raise Broken("two resets with the same task and seed differ; take randomness from the seed only")
        for spec in first.tools or ():
            _check_tool(spec)
    return "equal seeds give equal openings; tools have names, descriptions and object schemas"


def _check_tool(spec: ToolSpec) -> None:
    if not spec.name.replace("-", "_").isidentifier():
        raise Broken(f"tool name {spec.name!r} is no identifier")
    if not spec.description.strip():
        raise Broken(f"tool {spec.name!r} has no description")
    if spec.parameters.get("type") != "object" or "properties" not in spec.parameters:
        raise Broken(f"tool {spec.name!r}: parameters must be a JSON schema of type object with properties")


async def steps(at: Inspection) -> str:
    """The same actions give the same replies, also while another episode is played beside."""
    total = 0
    for index in range(4):
        speaker = uniform(rng(at.seed, "check-steps", index))
        first = await at.play(index, speaker)
        again, _ = await asyncio.gather(
            at.play(index, _yielding(recorded(first.actions)), max_turns=len(first.actions)),
            at.play(index + 1, _yielding(uniform(rng(at.seed, "check-beside", index)))),
        )
        for turn, (a, b) in enumerate(zip(first.replies, again.replies, strict=False)):
            if a != b:
                raise Broken(f"turn {turn}: the same action in the same state got another reply; {_difference(a, b)}")
        if len(first.replies) != len(again.replies):
            raise Broken("the same actions ended the episode at another turn")
        total += len(first.replies)
    return f"{total} replayed steps were equal, with another episode running beside"


def _yielding(speaker: Speaker) -> Speaker:
    """Lets the other episode go first, so that two episodes alternate even when no call ever waits."""

    async def speak(env: Env, tools: tuple[ToolSpec, ...]) -> Message:
        await asyncio.sleep(0)
        return await speaker(env, tools)

    return speak


def _difference(a: Reply, b: Reply) -> str:
    name = next(f for f in Reply.__struct_fields__ if getattr(a, f) != getattr(b, f))
    return f"{name} was {str(getattr(a, name))[:120]} and then {str(getattr(b, name))[:120]}"


def _slack(promised: float, n: int) -> float:
    """Three standard errors of a mean of `n` rewards in [0, 1] whose mean is `promised`; 0 at 0 and 1, where none can stray."""
    return 3 * math.sqrt(max(promised * (1 - promised), 0.0) / n) + 1e-6


async def oracle(at: Inspection) -> str:
    """The expert scores what is promised."""
    promised = at.spec.oracle_reward
    env = at.spec.make()
    able = isinstance(env, Expert)
    await at.close(env)
    if promised is None:
        raise NotApplicable("no oracle score is promised" + (" although there is an Expert" if able else ""))
    if not able:
        raise Broken(f"an oracle score of {promised:g} is promised, but the environment has no Expert")
    exact = promised <= 0 or promised >= 1
    score = await at.scores(
        lambda i: expert(), at.spec.oracle_tasks if exact else max(at.spec.oracle_tasks, 100), AGENT_SECONDS
    )
    if abs(score.mean - promised) > _slack(promised, score.n):
        raise Broken(
            f"the oracle scores {score.mean:.3f} over {score.n} episodes of at most {at.spec.max_turns} turns, "
            f"promised {promised:.3f}"
        )
    return f"the oracle scores {score.mean:.3f} over {score.n} episodes, promised {promised:.3f}"


async def null(at: Inspection) -> str:
    """An agent that says nothing scores what is promised."""
    promised = at.spec.null_reward
    if promised is None:
        raise NotApplicable("no score of a silent agent is promised")
    score = await at.scores(lambda i: silent(), min(at.spec.oracle_tasks, 20), AGENT_SECONDS)
    if abs(score.mean - promised) > _slack(promised, score.n):
        raise Broken(f"an agent that says nothing scores {score.mean:.3f}, promised {promised:.3f}: silence pays")
    return f"an agent that says nothing scores {score.mean:.3f}, promised {promised:.3f}"


async def chance(at: Inspection) -> str:
    """A random agent scores no more than promised."""
    promised = at.spec.chance_reward
    score = await at.scores(lambda i: uniform(rng(at.seed, "check-random", i)), RANDOM_EPISODES, AGENT_SECONDS)
    error = score.spread / math.sqrt(score.n)
    measured = f"a random agent scores {score.mean:.3f} ± {3 * error:.3f} over {score.n} episodes"
    if promised is None:
        raise NotApplicable(f"no chance level is promised; {measured}")
    rare = (promised * score.n + 2) / (score.n + 4)  # keeps a bound above 0 where successes are too rare to be seen
    if score.mean > promised + max(3 * error, _slack(rare, score.n)):
        raise Broken(f"{measured}, promised at most {promised:.3f}: the reward can be had without the task")
    return f"{measured}, promised at most {promised:.3f}"


async def cheats(at: Inspection) -> str:
    """No scripted cheat is paid unless it is flagged."""
    if not at.spec.cheats:
        raise NotApplicable("the environment names no cheats")
    count = 0
    for name, make in at.spec.cheats.items():
        for index in range(at.spec.cheat_tasks):
            reward = await reward_of(at.spec, (await at.play(index, make())).episode)
            flagged = any(c.audit and c.name == "flagged" and (c.score or 0) > 0 for c in reward.components)
            if (reward.value or 0.0) > 0 and not flagged:
                raise Broken(f"the cheat {name!r} is paid {reward.value:g} on task {at.task(index).id!r}, and nothing flags it")
            count += 1
    return f"{len(at.spec.cheats)} cheats earned nothing or were flagged over {count} episodes: {', '.join(at.spec.cheats)}"


async def exploit(at: Inspection) -> str:
    """The planted weakness pays, and the audit sees that nothing was achieved."""
    if at.spec.hack is None:
        raise NotApplicable("no weakness is planted" + (f" (with its dial: {at.spec.exploit})" if at.spec.exploit else ""))
    paid = 0
    for index in range(CHEAT_TASKS):
        reward = await reward_of(at.spec, (await at.play(index, at.spec.hack())).episode)
        true = [c.score for c in reward.components if c.audit and c.name == "true"]
        if true != [0.0]:
            raise Broken(
                f"the audit component 'true' says {true!r} of an episode that used the planted weakness; expected [0.0]"
            )
        paid += (reward.value or 0.0) > 0
    if paid == 0:
        raise Broken("the planted weakness never pays, so no detector can be tested with it")
    return f"the planted weakness paid in {paid} of {CHEAT_TASKS} episodes, and the audit says 0: {at.spec.exploit}"


async def legal(at: Inspection) -> str:
    """Every action listed as legal is accepted."""
    tried = 0
    for index in range(3):
        env, first = await at.open(index)
        listed = list(await env.legal()) if isinstance(env, Legal) else None
        await at.close(env)
        if listed is None:
            raise NotApplicable("the environment does not list legal actions")
        if not listed and not first.done:
            raise Broken("no action is legal at the start")
        for action in listed[:16]:
            env, _ = await at.open(index)
            reply = await at.step(env, action)
            await at.close(env)
            if reply.errors:
                raise Broken(f"a legal action was answered as a mistake {reply.errors}: {action}")
            tried += 1
    return f"{tried} legal actions were accepted"


async def mistakes(at: Inspection) -> str:
    """Bad actions get an answer to recover from, never a crash."""
    env, first = await at.open(0)
    await at.close(env)
    with_tools = bool(first.tools)
    for name, action in {**BAD_ACTIONS, **bad_calls(first.tools or ())}.items():
        env, _ = await at.open(0)
        try:
            reply = await at.step(env, action)
        except Exception as error:
            raise Broken(f"{name}: {type(error).__name__}: {str(error)[:300]}; answer a bad action, do not raise") from error
        finally:
            await at.close(env)
        if with_tools and action.tool_calls and name != "many calls":
            if reply.done:
                raise Broken(f"{name}: ended the episode, so the policy cannot recover")
            if not reply.errors:
                raise Broken(f"{name}: was not counted in Reply.errors")
            answered = {m.tool_call_id for m in reply.messages if m.role == "tool"}
            if answered != {c.id for c in action.tool_calls}:
                raise Broken(f"{name}: {len(action.tool_calls)} calls, but tool messages answer {sorted(map(str, answered))}")
    return f"{len(BAD_ACTIONS)} kinds of bad action and every tool's bad calls were answered"


async def snapshots(at: Inspection) -> str:
    """A restored state continues exactly like the original."""
    compared = 0
    for index in range(3):
        env, _ = await at.open(index)
        if not isinstance(env, Snapshots):
            await at.close(env)
            raise NotApplicable("the environment has no snapshots")
        played = await at.play(index, uniform(rng(at.seed, "check-snapshot", index)))
        half = len(played.actions) // 2
        for action in played.actions[:half]:
            await at.step(env, action)
        state = await at.clock.call("snapshot", env.snapshot())
        fresh = at.spec.make()
        if not isinstance(fresh, Snapshots):
            raise Broken("only some instances have snapshots")
        await at.clock.call("restore", fresh.restore(state))
        for copied in (fresh, env):  # the copy first: it must not share state with the original
            for turn, action in enumerate(played.actions[half:]):
                reply = await at.step(cast("Env", copied), action)
                if reply != played.replies[half + turn]:
                    raise Broken(
                        f"after a restore, turn {half + turn} differs: {_difference(played.replies[half + turn], reply)}"
                    )
                compared += 1
        await at.close(env)
        await at.close(cast("Env", fresh))
    return f"{compared} steps after a restore equal those of the original"


async def closing(at: Inspection) -> str:
    """Closing is always possible: before reset, twice, and after a step was cancelled."""
    env = at.spec.make()
    await at.close(env)
    env, _ = await at.open(0)
    await at.close(env)
    await at.close(env)
    env, first = await at.open(0)
    if not first.done:
        action = await uniform(random.Random(at.seed))(env, first.tools or ())
        step = asyncio.ensure_future(env.step(action))
        await asyncio.sleep(0)
        step.cancel()
        await asyncio.wait({step}, timeout=at.clock.seconds)
        if not step.done():
            raise Broken("a cancelled step goes on; let asyncio.CancelledError pass")
        if not step.cancelled() and isinstance(step.exception(), Exception):
            raise Broken(f"a cancelled step raised {type(step.exception()).__name__}; let asyncio.CancelledError pass")
    await at.close(env)
    return "closes before reset, twice, and after a cancelled step"


async def time_limits(at: Inspection) -> str:
    """No call took longer than allowed. Comes last: it looks back on all calls."""
    clock = at.clock
    if clock.slowest > clock.seconds:
        raise Broken(
            f"{clock.slowest_call} took {clock.slowest:.2f} s, allowed {clock.seconds:g} s"
            " (a call that blocks without awaiting cannot be cut off: make it async or do not pass thread=False)"
        )
    return f"the slowest call ({clock.slowest_call}) took {clock.slowest * 1000:.1f} ms, allowed {clock.seconds:g} s"


RULES: dict[str, Callable[[Inspection], Awaitable[str]]] = {
    "tasks": tasks,
    "splits": splits,
    "opening": opening,
    "steps": steps,
    "secrecy": secrecy,
    "oracle": oracle,
    "null agent": null,
    "random agent": chance,
    "cheats": cheats,
    "exploit": exploit,
    "legal actions": legal,
    "mistakes": mistakes,
    "snapshots": snapshots,
    "closing": closing,
    "time limits": time_limits,
}
"""Every rule, in the order it is applied."""
