"""Pins: only the vault's letter pays, at the end; states can be put back; the exact advantage sums to reward minus value."""

import asyncio

import pytest

from phronesis.envs.bifurcation import Bifurcation, bifurcation, exact_advantages
from phronesis.errors import ConfigError
from phronesis.records import say


def walk(horizon, decisive, letters):
    async def go():
        env, spec = Bifurcation(), bifurcation(horizon)
        seen = [await env.reset(spec.task("train", decisive), 0)]
        for letter in letters:
            seen.append(await env.step(say("assistant", letter)))
        return seen

    return asyncio.run(go())


@pytest.mark.parametrize(("letters", "reward"), [("aca", 1.0), ("bcc", 1.0), ("cac", 0.0), ("cdc", 0.0)])
def test_only_the_vault_decides(letters, reward):
    replies = walk(3, 1, letters)
    assert [r.messages[0].text.split(". ")[-1] for r in replies[:-1]] == ["A room.", "The vault.", "A room."]
    assert [r.done for r in replies] == [False] * 3 + [True] and replies[-1].reward == reward
    assert all(r.reward in (None, 0.0) for r in replies[:-1])


def test_state_keys_hold_what_matters():
    first, second = walk(3, 0, "cab"), walk(3, 0, "cdd")
    assert [r.state_key for r in first] == [r.state_key for r in second]
    assert walk(3, 0, "abd")[1].state_key != first[1].state_key


def test_a_restored_walk_goes_on():
    async def go():
        env, other = Bifurcation(), Bifurcation()
        await env.reset(bifurcation(4).task("train", 1), 0)
        for letter in "ac":
            await env.step(say("assistant", letter))
        await other.restore(await env.snapshot())
        return [[await e.step(say("assistant", x)) for x in "db"] for e in (env, other)]

    one, two = asyncio.run(go())
    assert one == two and one[-1].reward == 1.0 and one[-1].done


def test_exact_advantages():
    """At p = .25 a success earns .75 in the vault and 0 elsewhere; over outcomes they average 0."""
    assert exact_advantages(2, 4, 1.0, 0.25) == [0, 0, 0.75, 0]
    assert 0.25 * exact_advantages(0, 1, 1.0, 0.25)[0] + 0.75 * exact_advantages(0, 1, 0.0, 0.25)[0] == 0


def test_the_horizon_is_bounded():
    with pytest.raises(ConfigError, match=r"horizon in \[1, 64\], got 65"):
        bifurcation(65)
