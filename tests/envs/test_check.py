"""Pins: the checker finds each way of breaking the contract. That the worlds keep it: test_release_gate.py."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import replace

import msgspec
import pytest

from phronesis.envs import registry
from phronesis.envs.check import CheckReport, Finding, check, render, run_check
from phronesis.envs.native import from_env
from phronesis.envs.probes import LetterEnv, copy
from phronesis.envs.tool_env import Opening, ToolEnv
from phronesis.errors import UnknownName
from phronesis.records import Reply, Task, ToolSpec, say
from phronesis.rewards import FunctionRubric
from phronesis.tool import as_tool, tool


def verdict(spec, rule, **settings):
    (finding,) = asyncio.run(check(spec, rules=[rule], **settings)).findings
    return finding.verdict, finding.explanation


def fails(spec, rule, text, **settings):
    found, explanation = verdict(spec, rule, **settings)
    assert found == "fail", explanation
    assert text in explanation


class Hidden(ToolEnv):
    """A secret digit behind one tool; the base of environments that break one rule each."""

    def __init__(self):
        super().__init__()
        self.secret = 0

    async def begin(self, task, seed):
        self.secret = task.payload["secret"]
        return Opening(self.opening(task, seed), self.offered())

    def opening(self, task, seed):
        return task.messages

    def offered(self):
        @tool
        def peek(place: str) -> str:
            """Looks."""
            return self.answer(place)

        return (as_tool(peek),)

    def answer(self, place):
        return "nothing"

    async def settle(self, action, outcome):
        return Reply(reward=float(action.text == str(self.secret)) if outcome is None else None, done=outcome is None)


def rows(split, index):
    return {"prompt": "Guess.", "secret": 1000 * (split == "heldout") + index}


def spec_of(cls, tasks=rows, **changes):
    return replace(from_env(cls, tasks, name="hidden"), secrets=("secret",), **changes)


def test_the_base_is_sound():
    report = asyncio.run(check(spec_of(Hidden, null_reward=0.0, chance_reward=0.1)))
    assert report.ok, render(report)


def test_random_tasks_are_found():
    source = random.Random(0)
    spec = spec_of(Hidden, lambda split, i: {"prompt": "Guess.", "secret": source.randrange(10**6)})
    fails(spec, "tasks", "gives another task each time")


def test_tasks_of_another_name_and_double_ids_are_found():
    task = Task(id="t", env="other", messages=(say("user", "x"),), payload={"secret": 1})
    fails(replace(spec_of(Hidden), task=lambda split, i: task), "tasks", "says env 'other'")
    mine = msgspec.structs.replace(task, env="hidden")
    fails(replace(spec_of(Hidden), task=lambda s, i: msgspec.structs.replace(mine, split=s)), "tasks", "share the id 't'")


def test_a_leak_between_splits_is_found():
    fails(spec_of(Hidden, lambda split, i: {"prompt": "Guess.", "secret": i}), "splits", "lie in both")


def test_an_opening_that_ignores_the_seed_is_found():
    counter = itertools.count()

    class Counts(Hidden):
        def opening(self, task, seed):
            return (say("user", f"Guess number {next(counter)}"),)

    fails(spec_of(Counts), "opening", "two resets with the same task and seed differ")


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (ToolSpec(name="a b", description="d", parameters={"type": "object", "properties": {}}), "no identifier"),
        (ToolSpec(name="a", description=" ", parameters={"type": "object", "properties": {}}), "no description"),
        (ToolSpec(name="a", description="d", parameters={"type": "string"}), "JSON schema of type object"),
    ],
)
def test_bad_tool_specs_are_found(bad, text):
    class Offers(Hidden):
        def offered(self):
            return tuple(replace(t, spec=bad) for t in super().offered())

    fails(spec_of(Offers), "opening", text)


def test_a_world_that_is_no_function_of_its_seed_is_found():
    source = random.Random(0)

    class Noisy(Hidden):
        def answer(self, place):
            return str(source.random())

    fails(spec_of(Noisy), "steps", "the same action in the same state got another reply; messages was")


def test_state_shared_between_episodes_is_found():
    shared = {"n": 0}

    class Shares(Hidden):
        async def begin(self, task, seed):
            shared["n"] = 0
            return await super().begin(task, seed)

        def answer(self, place):
            shared["n"] += 1
            return str(shared["n"])

    fails(spec_of(Shares), "steps", "the same action in the same state got another reply")


def test_secrets_in_the_opening_are_found():
    class Tells(Hidden):
        def opening(self, task, seed):
            return (say("user", f"The answer has {len(str(task.payload['secret']))} digits."),)

    spec = spec_of(Tells, lambda split, i: {"prompt": "x", "secret": 7 if i % 2 else 77})
    fails(spec, "secrecy", "the opening changes with the secret 'secret'")


def test_a_printed_payload_is_found():
    class Prints(Hidden):
        def opening(self, task, seed):
            self.row = {k: v for k, v in task.payload.items() if k != "secret"}
            return task.messages

        def answer(self, place):
            return f"debug: {self.row}"

    fails(spec_of(Prints), "secrecy", "planted in the payload surfaces")


def test_seeds_and_state_keys_in_the_text_are_found():
    class Seeds(Hidden):
        def answer(self, place):
            return f"world {self.secret}"

    fails(spec_of(Seeds, lambda s, i: {"prompt": "x", "secret": 123456700 + i}), "secrecy", "hidden number payload['secret']")

    class Keys(Hidden):
        async def settle(self, action, outcome):
            key = f"state-of-{self.secret:06d}"
            return Reply(messages=(say("user", key),), state_key=key)

    fails(spec_of(Keys), "secrecy", "the state key 'state-of-")


def test_a_secret_that_does_not_exist_is_found():
    fails(replace(spec_of(Hidden), secrets=("answer",)), "secrecy", "names 'answer', which the payload does not have")


def test_scores_other_than_promised_are_found():
    fails(replace(copy(), oracle_reward=0.8), "oracle", "the oracle scores 1.000 over 100 episodes")
    fails(replace(copy(), max_turns=0), "oracle", "the oracle scores 0.000 over 4 episodes of at most 0 turns")
    fails(spec_of(Hidden, oracle_reward=1.0), "oracle", "has no Expert")
    fails(replace(copy(), chance_reward=0.05), "random agent", "the reward can be had without the task")
    generous = replace(copy(), rubric=FunctionRubric(lambda e: 0.5))
    fails(generous, "null agent", "silence pays")
    fails(replace(copy(), rubric=FunctionRubric(lambda e: None)), "null agent", "left an episode unscored")
    assert verdict(replace(copy(), chance_reward=None), "random agent")[0] == "skip"


def test_a_step_that_hangs_is_cut_off():
    class Hangs(Hidden):
        async def step(self, action):
            await asyncio.sleep(60)
            return Reply(done=True)

    fails(spec_of(Hangs), "steps", "step gave no answer within 0.05 s and was cut off", call_seconds=0.05)


def test_a_step_that_blocks_is_found_and_given_up():
    class Slow(Hidden):
        async def settle(self, action, outcome):
            time.sleep(0.03)
            return await super().settle(action, outcome)

    report = asyncio.run(check(spec_of(Slow), rules=["opening", "steps", "time limits"], call_seconds=0.02))
    assert [f.verdict for f in report.findings][-1] == "fail"
    assert "blocks without awaiting" in report.findings[-1].explanation

    class Blocks(Hidden):
        async def begin(self, task, seed):
            time.sleep(1.0)
            return await super().begin(task, seed)

    report = run_check(spec_of(Blocks), seconds=0.2)
    assert not report.ok
    assert report.findings[-1].rule == "time limits"
    assert "given up after 0.2 s" in report.findings[-1].explanation


def test_garbage_and_crashes_are_findings_not_exceptions():
    class Garbage(Hidden):
        async def step(self, action):
            return "observation"

    class Crashes(Hidden):
        async def reset(self, task, seed):
            raise RuntimeError("no database")

    fails(spec_of(Garbage), "mistakes", "step returned 'str'")
    fails(spec_of(Crashes), "opening", "RuntimeError: no database")
    report = asyncio.run(check(spec_of(Crashes)))
    assert {f.rule for f in report.failures} >= {"opening", "steps", "mistakes"}


def test_mistakes_that_crash_end_or_go_uncounted_are_found():
    class Strict(Hidden):
        async def step(self, action):
            for c in action.tool_calls:
                self.tools[c.name]
            return await super().step(action)

    class Ends(Hidden):
        async def settle(self, action, outcome):
            return Reply(done=True)

    class Forgives(Hidden):
        async def step(self, action):
            return msgspec.structs.replace(await super().step(action), errors=())

    class Mute(Hidden):
        async def step(self, action):
            reply = await super().step(action)
            return msgspec.structs.replace(reply, messages=(say("user", "what?"),))

    fails(spec_of(Strict), "mistakes", "unknown tool: KeyError")
    fails(spec_of(Ends), "mistakes", "ended the episode, so the policy cannot recover")
    fails(spec_of(Forgives), "mistakes", "was not counted in Reply.errors")
    fails(spec_of(Mute), "mistakes", "1 calls, but tool messages answer []")


def test_illegal_legal_actions_are_found():
    class Lies(LetterEnv):
        def __init__(self):
            super().__init__("copy", "abcd")

        async def legal(self):
            return [say("assistant", "z")]

    class Empty(Lies):
        async def legal(self):
            return []

    base = copy()
    fails(replace(base, make=Lies), "legal actions", "answered as a mistake")
    fails(replace(base, make=Empty), "legal actions", "no action is legal at the start")


def test_snapshots_that_forget_or_share_are_found():
    class Forgets(LetterEnv):
        def __init__(self):
            super().__init__("memory", "abcd")

        async def snapshot(self):
            return self.wanted.encode()

        async def restore(self, state):
            self.wanted, self.waiting = state.decode(), True

    spec = replace(registry.get("probe-memory"), make=Forgets)
    fails(spec, "snapshots", "after a restore, turn 1 differs")


def test_closing_that_fails_is_found():
    class Once(Hidden):
        async def close(self):
            del self.secret

    class Swallows(Hidden):
        async def step(self, action):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(60)
            return Reply(done=True)

    fails(spec_of(Once), "closing", "AttributeError")
    fails(spec_of(Swallows), "closing", "a cancelled step goes on", call_seconds=0.05)


def test_reports_are_records_and_read_well():
    report = CheckReport(
        env="x",
        findings=(
            Finding(rule="tasks", verdict="ok", explanation="fine"),
            Finding(rule="time limits", verdict="fail", explanation="slow"),
            Finding(rule="splits", verdict="skip", explanation="no keys"),
        ),
        seconds=1.25,
    )
    assert msgspec.json.decode(msgspec.json.encode(report), type=CheckReport) == report
    assert not report.ok
    assert render(report).splitlines() == [
        "x: FAILED (1 ok, 1 failed, 1 skipped, 1.2 s)",
        "  ok    tasks        fine",
        "  FAIL  time limits  slow",
        "  skip  splits       no keys",
    ]


def test_findings_are_a_function_of_the_seed():
    one, two = (asyncio.run(check(registry.get("blackjack"), seed=3, rules=["opening", "steps", "secrecy"])) for _ in range(2))
    assert one.findings == two.findings


def test_unknown_splits_and_rules_are_refused():
    with pytest.raises(UnknownName):
        asyncio.run(check(copy(), split="test"))
    with pytest.raises(UnknownName):
        asyncio.run(check(copy(), rules=["oracel"]))
