"""SELAUR's three measures, from the distributions the policy really sampled from."""

from __future__ import annotations

import asyncio

import pytest
import torch
from msgspec.structs import replace
from sampled_groups import make_group
from tiny_jobs import config

from phronesis.credit import NoBaseline, SELAURCredit
from phronesis.credit.judged.uncertainty import uncertainty
from phronesis.errors import ConfigError
from phronesis.models.layout import plan
from phronesis.records import Component, Reward
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.teacher import Doubter, taught

RULE = SELAURCredit(vocabulary=61, measures="three", weight=0.2, baseline=NoBaseline())


def plainly(decoder, episode, temperature):
    """Per turn, per token, from one forward pass; 0 at forced tokens."""
    ids, at, rows = [i for t in episode.turns for i in (*t.context, *t.completion)], 0, []
    with torch.no_grad():
        logits = decoder.logits(decoder.hidden(torch.tensor(ids), plan([len(ids)], [None]))) / temperature
    p = logits.double().softmax(-1)
    for turn in episode.turns:
        at += len(turn.context)
        rows.append([uncertainty(p[at + t - 1].tolist()).mean if s else 0.0 for t, s in enumerate(turn.sampled)])
        at += len(turn.completion)
    return rows


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_policy_says_how_unsure_it_was(decoder, temperature):
    group = make_group(decoder, 0, temperature=temperature, forced={(0, 0)})
    found = Doubter(decoder, max_tokens=40)(group)
    for i, episode in enumerate(group.episodes):
        for row, wanted in zip(found[i], plainly(decoder, episode, temperature), strict=True):
            assert row == pytest.approx(wanted, abs=1e-4)


def test_failures_earn_for_it_and_successes_do_not(decoder):
    group = make_group(decoder, 0, size=2)
    scores = [Reward(components=(Component(name="r", score=s),)) for s in (1.0, 0.0)]
    group = replace(group, episodes=tuple(replace(e, reward=r) for e, r in zip(group.episodes, scores, strict=True)))
    credit = asyncio.run(taught(RULE, decoder).assign(group))
    good, bad = group.episodes
    assert all(a == 1.0 for row in credit.values[0] for a in row) and len(credit.values[0]) == len(good.turns)
    steps = [sum(row) / len(row) for row in plainly(decoder, bad, 1.0)]
    mean = sum(steps) / len(steps)
    assert [row[0] for row in credit.values[1]] == pytest.approx([0.2 * (u + mean) for u in steps], abs=1e-4)


def test_records_alone_do_not_suffice_and_entropies_need_no_policy(decoder):
    with pytest.raises(ConfigError, match="needs whole distributions"):
        asyncio.run(RULE.assign(make_group(decoder, 0)))
    plain = SELAURCredit(vocabulary=61)
    assert taught(plain, decoder) is plain


def test_a_run_trains_with_it(tmp_path):
    job.run(config(credit=SELAURCredit(vocabulary=290, measures="three")), tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        assert max(v for _, v in run.curve("update/tokens")) > 0
