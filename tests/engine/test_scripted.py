"""The scripted policy obeys the same contract as a real one."""

from __future__ import annotations

import asyncio
import math

import pytest

from phronesis.engine.scripted import ScriptedPolicy
from phronesis.errors import EnvFault, PolicyFault
from phronesis.policy import Policy, Releases, SamplingParams, Scores, Versioned, prompt_crc
from phronesis.records import Finish


def ask(policy, prompt=(1, 2), **params):
    return asyncio.run(policy.sample(prompt, SamplingParams(**{"max_tokens": 10, **params})))


def test_lists_are_used_in_order_and_then_fail():
    policy = ScriptedPolicy([(5, 6), EnvFault("planned"), (7,)], vocab_size=9)
    assert all(isinstance(policy, c) for c in (Policy, Scores, Versioned, Releases))
    first = ask(policy)
    assert (first.ids, first.finish, first.sampled) == ((5, 6), Finish.stop, (True, True))
    assert first.logprobs == (-math.log(9),) * 2 and first.entropies == (math.log(9),) * 2
    assert first.prompt_crc == prompt_crc((1, 2))
    with pytest.raises(EnvFault, match="planned"):
        ask(policy)
    assert ask(policy).ids == (7,)
    with pytest.raises(PolicyFault, match="3 replies"):
        ask(policy)
    assert policy.prompts == [(1, 2)] * 4


def test_functions_limits_stops_and_forced_ids():
    policy = ScriptedPolicy(lambda prompt: [prompt[-1]] * 4 + [0, 8], vocab_size=9, context=12)
    assert ask(policy, stop_ids=(0,)).ids == (2, 2, 2, 2, 0)
    cut = ask(policy, max_tokens=3)
    assert (cut.ids, cut.finish) == ((2, 2, 2), Finish.length)
    forced = ask(policy, forced=(0, 3), stop_ids=(0,))
    assert forced.ids == (0, 3, 2, 2, 2, 2, 0) and forced.sampled == (False,) * 2 + (True,) * 5
    full = ask(policy, prompt=(4,) * 10)
    assert (full.ids, full.finish) == ((4, 4), Finish.context)
    with pytest.raises(PolicyFault, match="context"):
        ask(policy, prompt=(4,) * 12)


def test_version_release_and_score():
    policy = ScriptedPolicy([(1,)], vocab_size=2, delay=0.001)
    assert (policy.version, policy.advance()) == (0, 1)
    policy.release("a")
    assert policy.released == ["a"] and ask(policy).version == (1, 1)
    assert asyncio.run(policy.score((1, 2, 3))) == (-math.log(2),) * 2
