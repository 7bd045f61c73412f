"""Which weights sampled a token reaches the loss, however a step is cut, and decoupled PPO learns from stale episodes by it."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from sampled_groups import make_decoder, make_group

from phronesis.losses import DecoupledPPOLoss, LossConfig
from phronesis.records import Credit
from phronesis.train.batching import BatchConfig, build_batch
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.packed import pack
from phronesis.train.scoring import score

VERSIONS = LossConfig(objective=DecoupledPPOLoss(prox_share="versions"))


def aged(group):
    """Turn k of member m was sampled by version m + k; a turn during which the weights changed has its oldest."""
    episodes = [
        replace(e, turns=tuple(replace(t, version=(m + k, m + k + 1)) for k, t in enumerate(e.turns)))
        for m, e in enumerate(group.episodes)
    ]
    return replace(group, episodes=tuple(episodes))


def credit_of(group, value=1.0):
    rows = tuple(tuple(tuple(value if s else 0.0 for s in t.sampled) for t in e.turns) for e in group.episodes)
    return Credit(group=group.id, values=rows, reasons=(None,) * len(rows))


@pytest.mark.parametrize("changes", [{}, {"max_tokens": 40}, {"max_tokens": 40, "minibatches": 2}])
def test_every_token_keeps_the_version_of_its_turn(decoder, changes):
    groups = [aged(make_group(decoder, i, forced={(0, 0)})) for i in range(2)]
    batch = build_batch(groups, [credit_of(g) for g in groups])
    learner = Learner(decoder, LearnerConfig(loss=VERSIONS, optimizer=AdamWConfig(lr=1e-9), **changes))
    learner.updates, seen, inner = 5, [], learner._loss

    def spy(inputs):
        assert (inputs.versions.prox, inputs.versions.theta) == (5, 6)
        pairs = zip(inputs.sequence_N.tolist(), inputs.turn_N.tolist(), strict=True)
        seen.extend(zip(pairs, inputs.versions.behaviour_N.tolist(), strict=True))
        return inner(inputs)

    learner._loss = spy
    learner.update(batch)
    assert len(seen) == batch.trained_tokens
    member = {name: m for g in groups for m, name in enumerate(e.id for e in g.episodes)}
    assert all(version == member[batch.episodes[s]] + k for (s, k), version in seen)


def test_observed_tokens_have_none(decoder):
    group = aged(make_group(decoder, 0))
    packed = pack(build_batch([group], [credit_of(group)], BatchConfig(observations=True)))
    assert packed.observed_K is not None and packed.observed_K.any()
    assert (packed.version_K[packed.observed_K] == 0).all()
    assert pack(replace(build_batch([group], [credit_of(group)]), versions=())).version_K is None


def test_stale_episodes_are_learned_from_further_than_the_clip_around_the_sampler(decoder):
    """Good tokens sampled four versions before the update: the clip around the sampler (share 0) holds each of them at a gain
    of log 1.2, that around an approximate proximal policy, four fifths of the way, at five times that. (Tokens move together,
    so that clipped ones are carried beyond by others.)"""
    group = make_group(decoder, 0)
    turns = {e.id: tuple(replace(t, version=(1, 1)) for t in e.turns) for e in group.episodes}
    stale = replace(group, episodes=tuple(replace(e, turns=turns[e.id]) for e in group.episodes))
    batch, gain = build_batch([stale], [credit_of(stale)]), {}
    for share in ("versions", 0.0):
        learned = Learner(
            make_decoder(),
            LearnerConfig(
                loss=LossConfig(objective=DecoupledPPOLoss(prox_share=share)), optimizer=AdamWConfig(lr=3e-4), old="sampler",
                epochs=30, mismatch_error=50.0,
            ),
        )  # fmt: skip
        learned.updates = 5
        learned.update(batch)
        packed = pack(batch)
        with torch.no_grad():
            gain[share] = float((score(learned.decoder, packed).logp_K - packed.logp_infer_K).mean())
    assert gain["versions"] > 1.3 * gain[0.0] > 0, gain
