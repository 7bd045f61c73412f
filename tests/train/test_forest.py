"""Sharing of prompts: every prompt can be rebuilt from the forest, and no shared part is stored twice."""

from hypothesis import given
from hypothesis import strategies as st

from phronesis.train.forest import Anchor, Forest, common_prefix


def rebuild(forest, anchor):
    ids = list(anchor.rest)
    at = anchor.segment
    while at is not None:
        ids = [*forest.segments[at].ids, *ids]
        at = forest.segments[at].parent
    return tuple(ids)


prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), min_size=1, max_size=8)


@given(prompts, st.integers(1, 4))
def test_every_prompt_is_on_its_path(prompts, shortest):
    forest = Forest()
    anchors = forest.share(prompts, shortest)
    assert set(anchors) == set(prompts)
    for prompt, anchor in anchors.items():
        assert rebuild(forest, anchor) == prompt
        assert prompts.count(prompt) == 1 or not anchor.rest


@given(prompts)
def test_with_the_shortest_limit_nothing_common_is_repeated(prompts):
    forest = Forest()
    anchors = forest.share(prompts, 1)
    stored = sum(len(s.ids) for s in forest.segments) + sum(len(a.rest) for a in anchors.values())
    assert stored == len({p[: i + 1] for p in prompts for i in range(len(p))})


def test_short_common_prefixes_are_not_worth_a_segment():
    forest = Forest()
    anchors = forest.share([(1, 2, 3), (1, 2, 4)], shortest=3)
    assert forest.segments == [] and anchors[(1, 2, 3)] == Anchor(None, (1, 2, 3))


def test_a_prompt_that_is_the_beginning_of_another():
    forest = Forest()
    anchors = forest.share([(1, 2), (1, 2, 3), (1, 2, 4)], shortest=2)
    assert [s.ids for s in forest.segments] == [(1, 2)]
    assert anchors == {(1, 2): Anchor(0, ()), (1, 2, 3): Anchor(0, (3,)), (1, 2, 4): Anchor(0, (4,))}


def test_an_odd_prompt_does_not_spoil_the_others():
    forest = Forest()
    forest.share([(9,), (1, 2, 3), (1, 2, 4)], shortest=2)
    assert [s.ids for s in forest.segments] == [(1, 2)]


def test_common_prefix():
    assert [common_prefix(a, b) for a, b in (("", "a"), ("ab", "ab"), ("ab", "abc"), ("xb", "ab"))] == [0, 2, 2, 0]
