"""Our losses and advantages against TRL's and verl's, from digests of what their own code computed on the same inputs."""

import json
from pathlib import Path

import pytest
from bench.crosscheck import inputs
from bench.crosscheck.__main__ import BOUND, KEPT, NOTES, PEERS, digest

THEIRS = json.loads(Path(KEPT).read_text())


def test_every_formula_is_kept():
    assert {key: set(kept) for key, kept in THEIRS.items()} == {key: set(peer.ours) for key, peer in PEERS.items()}


@pytest.mark.parametrize(("key", "formula"), [(key, formula) for key, peer in PEERS.items() for formula in peer.ours])
def test_agrees(key, formula):
    bound, _ = NOTES.get((key, formula), (BOUND, ""))
    for seed, theirs in zip(inputs.SEEDS, THEIRS[key][formula], strict=True):
        ours = PEERS[key].ours[formula](inputs.draw(seed))
        # A digest adds up hundreds of numbers, each within the bound.
        assert digest(ours) == pytest.approx(theirs, abs=bound * ours.numel() * (1 + float(ours.detach().abs().max())))


def test_a_digest_tells_numbers_apart():
    ours = PEERS["trl"].ours["ppo, token mean"](inputs.draw(0))
    assert digest(ours.flip(0)) != pytest.approx(digest(ours), abs=1e-6)
    assert digest(ours * (1 + 1e-6)) != pytest.approx(digest(ours), abs=1e-10)


def test_draws_reach_what_they_are_to_compare():
    for seed in inputs.SEEDS:
        given = inputs.draw(seed)
        ratio = (given.theta - given.old).exp()[given.mask]
        assert (ratio > 1.28).any() and (ratio < 0.8).any() and (~given.mask).any()
        assert given.mask.any(1).all() and (given.advantages > 0).any() and (given.advantages < 0).any()
