"""Learning from pairs: the losses it follows, what cancels, packing, and that it learns which side is better."""

from __future__ import annotations

import math

import pytest
import torch
from sampled_groups import VOCABULARY, full_logp, make_decoder, make_group

from phronesis.data.preferences import Preference, best_against_worst
from phronesis.data.traces import Trace
from phronesis.errors import ConfigError, TrainingError
from phronesis.losses import DPOLoss, IPOPreferenceLoss, StepAPOLoss
from phronesis.models.decoder import Decoder
from phronesis.seeding import rng
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.preference import PreferenceConfig, fit_pairs

STILL = AdamWConfig(lr=1e-30)


def trace(*parts: tuple[bool, list[int]]) -> Trace:
    ids = tuple(i for _, part in parts for i in part)
    return Trace(ids=ids, mask=tuple(m for m, part in parts for _ in part))


def make_pairs(n: int, shared: int = 20, seed: int = 0) -> list[Preference]:
    """A common prompt, a first answer both sides give, then answers that differ in tokens and length."""
    source = rng(seed, "pairs")

    def draw(k: int) -> list[int]:
        return [source.randrange(VOCABULARY) for _ in range(k)]

    found: list[Preference] = []
    for _ in range(n):
        start = [(False, [*range(5, 5 + shared), *draw(2)]), (True, draw(3)), (False, draw(2))]
        sides = [trace(*start, (True, [side, *draw(source.randrange(4))])) for side in (1, 2)]
        values = source.random(), source.random()
        found.append(Preference(chosen=(sides[0],), rejected=(sides[1],), chosen_value=values[0], rejected_value=values[1]))
    return found


def side_sum(decoder: Decoder, traces: tuple[Trace, ...]) -> float:
    """Log-probability of the marked tokens of whole sequences."""
    return sum(
        p
        for t in traces
        for p, m in zip(full_logp(decoder, t.ids).tolist(), t.mask[1:], strict=True)
        if m
    )  # fmt: skip


def sides(decoder: Decoder, reference: Decoder, pairs: list[Preference]) -> list[tuple[float, float]]:
    def moved(traces: tuple[Trace, ...]) -> float:
        return side_sum(decoder, traces) - side_sum(reference, traces)

    return [(moved(p.chosen), moved(p.rejected)) for p in pairs]


@pytest.mark.parametrize("micro", [16384, 70, 1])
@pytest.mark.parametrize("objective", [DPOLoss(beta=0.3), IPOPreferenceLoss(beta=0.3), StepAPOLoss(beta=0.3)])
def test_the_loss_is_that_of_whole_sequences(decoder, objective, micro):
    reference, pairs = make_decoder(seed=1), make_pairs(6)
    expected = []
    for pair, (won, lost) in zip(pairs, sides(decoder, reference, pairs), strict=True):
        margin = 0.3 * (won - lost)
        if isinstance(objective, StepAPOLoss):
            margin += pair.rejected_value - pair.chosen_value
        expected.append(
            (won - lost - 1 / 0.6) ** 2 if isinstance(objective, IPOPreferenceLoss) else math.log1p(math.exp(-margin))
        )
    config = PreferenceConfig(objective=objective, optimizer=STILL, batch_pairs=6, micro_tokens=micro, max_grad_norm=None)
    (step,) = fit_pairs(decoder, pairs, config, reference=reference).history
    assert step.loss == pytest.approx(sum(expected) / 6, rel=1e-4)
    measured = sides(decoder, reference, pairs)
    assert step.accuracy == pytest.approx(sum(won > lost for won, lost in measured) / 6)
    assert step.margin == pytest.approx(sum(won - lost for won, lost in measured) / 6, rel=1e-4)


def test_one_gradient_for_any_packing_and_one_copy_of_what_is_shared():
    pairs, weights, computed = make_pairs(6), [], []
    for micro in (16384, 60):
        model = make_decoder()
        config = PreferenceConfig(optimizer=AdamWConfig(lr=1e-3, eps=1.0), batch_pairs=6, micro_tokens=micro, decay="constant")
        computed.append(fit_pairs(model, pairs, config).history[0].computed_tokens)
        weights.append(model)
    for a, b in zip(weights[0].parameters(), weights[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    own = sum(len(s.ids) - 27 for p in pairs for s in (*p.chosen, *p.rejected))
    assert computed[0] == 20 + 6 * 7 + own < computed[1]


def test_the_first_step_starts_where_the_reference_is(decoder):
    config = PreferenceConfig(optimizer=STILL, batch_pairs=4)
    (step,) = fit_pairs(decoder, make_pairs(4), config).history
    assert step.loss == pytest.approx(math.log(2), abs=1e-6) and step.margin == pytest.approx(0.0, abs=1e-5)


def test_it_learns_which_side_is_better():
    pairs = make_pairs(48, shared=4)
    train, held_out = pairs[:32], pairs[32:]
    model, reference = make_decoder(), make_decoder()
    config = PreferenceConfig(epochs=6, batch_pairs=8, optimizer=AdamWConfig(lr=3e-3))
    summary = fit_pairs(model, train, config)
    assert summary.history[-1].loss < 0.3 < summary.history[0].loss
    # the sides begin with 1 and with 2: a rule that carries over to pairs never seen
    assert sum(won > lost for won, lost in sides(model, reference, held_out)) >= 14


def test_ipo_stops_at_its_margin():
    pairs = make_pairs(8, shared=4)
    model, reference = make_decoder(), make_decoder()
    config = PreferenceConfig(objective=IPOPreferenceLoss(beta=0.5), epochs=60, batch_pairs=8, optimizer=AdamWConfig(lr=3e-3))
    fit_pairs(model, pairs, config)
    assert [won - lost for won, lost in sides(model, reference, pairs)] == pytest.approx([1.0] * 8, abs=0.15)


def test_step_pairs_learn_from_the_first_difference_alone(decoder):
    prompt, context = (False, [3, 4, 5]), (False, [6])
    chosen = trace(prompt, (True, [10, 11]), context, (True, [12, 13]), context, (True, [14]))
    rejected = trace(prompt, (True, [10, 11]), context, (True, [12, 20, 21]), context, (True, [22]))
    parted = trace(prompt, (True, [10, 11]), (False, [7]), (True, [12]))
    pairs = [Preference(chosen=(chosen,), rejected=(rejected,)), Preference(chosen=(chosen,), rejected=(parted,))]
    reference = make_decoder(seed=1)
    config = PreferenceConfig(first_step=True, objective=DPOLoss(beta=1.0), optimizer=STILL)
    summary = fit_pairs(decoder, pairs, config, reference=reference)

    def at(model: Decoder, whole: Trace, places: list[int]) -> float:
        return sum(full_logp(model, whole.ids)[i - 1].item() for i in places)

    won = at(decoder, chosen, [7]) - at(reference, chosen, [7])
    lost = at(decoder, rejected, [7, 8]) - at(reference, rejected, [7, 8])
    assert summary.history[0].loss == pytest.approx(math.log1p(math.exp(lost - won)), rel=1e-4)
    assert summary.left_out == {"no_common_step": 1} and summary.history[0].pairs == 1


def test_the_best_against_the_worst_of_a_group(decoder):
    groups = [make_group(decoder, i, size=4) for i in range(3)]
    collected = best_against_worst(groups)
    assert len(collected.pairs) == 3 and collected.left_out == {}
    config = PreferenceConfig(optimizer=STILL, batch_pairs=3)
    (step,) = fit_pairs(decoder, collected.pairs, config, reference=make_decoder(seed=1)).history
    expected = sides(decoder, make_decoder(seed=1), collected.pairs)
    assert step.chosen == pytest.approx(sum(w for w, _ in expected) / 3, abs=2e-4)


def test_pairs_that_cannot_be_learned_from_are_counted(decoder):
    same = make_pairs(1)[0]
    twins = Preference(chosen=same.chosen, rejected=same.chosen)
    config = PreferenceConfig(optimizer=STILL)
    assert fit_pairs(decoder, [same, twins], config).left_out == {"same": 1}
    with pytest.raises(TrainingError, match="none of 1 pairs"):
        fit_pairs(decoder, [twins], config)
    bad = Preference(chosen=(Trace(ids=(1, 2), mask=(True, True)),), rejected=same.rejected)
    with pytest.raises(TrainingError, match="first token cannot be a target"):
        fit_pairs(decoder, [bad], config)
    with pytest.raises(ConfigError, match="batch_pairs"):
        PreferenceConfig(batch_pairs=0)


def test_a_side_may_be_several_traces_and_progress_may_stop(decoder):
    first, second = make_pairs(2)
    pair = Preference(chosen=(*first.chosen, *second.chosen), rejected=first.rejected)
    reference = make_decoder(seed=1)
    config = PreferenceConfig(optimizer=STILL, epochs=3, batch_pairs=1)
    summary = fit_pairs(decoder, [pair], config, reference=reference, progress=lambda s: s.step < 2)
    assert len(summary.history) == 2
    ((won, lost),) = sides(decoder, reference, [pair])
    assert summary.history[0].margin == pytest.approx(won - lost, abs=2e-4)
