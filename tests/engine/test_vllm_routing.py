"""Which server a request goes to, and one completion out of several requests.

Pinned: an episode stays where its prefix is cached; a server that leaves moves only its own episodes; no server is loaded
beyond the bound; a spliced completion is what the embedded engine's own bookkeeping of forced ids and budgets gives.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from math import ceil

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from phronesis.engine.request import Request
from phronesis.engine.vllm.ask import Said
from phronesis.engine.vllm.routing import SLACK, Router
from phronesis.engine.vllm.splice import splice
from phronesis.policy import SamplingParams, ThoughtBudget
from phronesis.records import Finish


@dataclass
class Place:
    url: str
    load: int = 0


def places(n: int) -> list[Place]:
    return [Place(f"http://s{i}") for i in range(n)]


KEYS = [f"train-{i}/0" for i in range(400)]


def test_episodes_spread_and_stay():
    router, servers = Router(), places(4)
    homes = {k: router.choose(k, servers) for k in KEYS}
    assert all(75 < n < 125 for n in Counter(p.url for p in homes.values() if p).values())
    assert all(router.choose(k, servers) is homes[k] for k in KEYS)
    assert router.moves == 0
    assert all(Router().choose(k, list(reversed(servers))) is homes[k] for k in KEYS[:50])  # of addresses alone


def test_a_server_that_leaves_moves_its_own_episodes_and_gets_new_ones_when_it_is_back():
    router, servers = Router(), places(4)
    homes = {k: router.choose(k, servers) for k in KEYS}
    left = servers[1:]
    moved = [k for k in KEYS if router.choose(k, left) is not homes[k]]
    assert sorted(moved) == sorted(k for k in KEYS if homes[k] is servers[0])
    assert router.moves == len(moved)
    assert all(router.choose(k, servers) is not servers[0] for k in KEYS)  # what they computed meanwhile lies elsewhere
    fresh = [router.choose(f"new-{i}", servers) for i in range(400)]
    assert 75 < sum(p is servers[0] for p in fresh) < 125


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 30))
def test_no_server_is_loaded_beyond_the_bound(loads: list[int], key: int):
    servers = [Place(f"http://s{i}", n) for i, n in enumerate(loads)]
    chosen = Router(1.25).choose(str(key), servers)
    assert chosen is not None
    assert chosen.load < max(SLACK, ceil(1.25 * (sum(loads) + 1) / len(loads)))


def test_an_overloaded_home_is_left_for_good():
    router, servers = Router(), places(2)
    home = router.choose("k", servers)
    assert home is not None
    home.load = 40
    other = router.choose("k", servers)
    assert other is not home and router.moves == 1
    home.load = 0
    assert router.choose("k", servers) is other  # its prefix is there now
    router.forget("k")
    assert router.choose("k", servers) is home


def test_without_a_key_the_idlest_and_servers_to_avoid_last():
    router, servers = Router(), [Place("http://a", 3), Place("http://b", 1)]
    assert router.choose(None, servers) is servers[1]
    assert router.choose(None, servers, frozenset({"http://b"})) is servers[0]
    assert router.choose("k", servers, frozenset({"http://a", "http://b"})) is not None
    assert router.choose("k", []) is None


OPEN, CLOSE, STOP = 1, 2, 3


def spoken(prompt, params, draws, context) -> tuple[list[int], list[bool], Finish]:
    """What one request to the embedded engine gives whose t-th draw, forced or not, is draws[t]."""
    request = Request(np.asarray(prompt), params, asyncio.get_event_loop_policy().new_event_loop().create_future())
    request.future.get_loop().close()
    ids, sampled = list[int](), list[bool]()
    end = min(params.max_tokens, context - len(prompt))
    while len(ids) < end:
        force = request.force
        token = force if force >= 0 else draws[len(ids)]
        ids.append(token)
        sampled.append(force < 0)
        request.see(token, None)
        if force < 0 and token in params.stop_ids:
            return ids, sampled, Finish.stop
    return ids, sampled, Finish.length if end == params.max_tokens else Finish.context


@given(
    st.lists(st.integers(0, 9), min_size=40, max_size=40),
    st.lists(st.sampled_from([OPEN, CLOSE, 5, 6]), min_size=1, max_size=4),
    st.lists(st.sampled_from([OPEN, CLOSE, STOP, 5]), max_size=3),
    st.one_of(st.none(), st.integers(0, 5)),
    st.integers(1, 24),
    st.integers(6, 30),
)
def test_a_spliced_completion_is_one_completion(draws, prompt, forced, budget, most, context):
    thought = None if budget is None else ThoughtBudget(max_tokens=budget, open_id=OPEN, close_ids=(8, CLOSE))
    params = SamplingParams(max_tokens=most, forced=tuple(forced), stop_ids=(STOP,), thought=thought)

    async def sample(n: int, sofar: tuple[int, ...], limit: int, stops: tuple[int, ...]) -> Said:
        """A server whose t-th draw is draws[t]."""
        at, ids, finish = len(sofar) - len(prompt), list[int](), Finish.length
        while len(ids) < min(limit, context - len(sofar)):
            ids.append(draws[at + len(ids)])
            if ids[-1] in stops:
                finish = Finish.stop
                break
        else:
            finish = Finish.length if len(ids) == limit else Finish.context
        return Said(ids=tuple(ids), logprobs=(-1.0,) * len(ids), finish=finish, prompt=sofar)

    parts = asyncio.run(splice(tuple(prompt), params, context, sample))
    assert (parts.ids, parts.sampled, parts.finish) == spoken(prompt, params, draws, context)
    assert parts.logprobs == [-1.0 if s else 0.0 for s in parts.sampled]
