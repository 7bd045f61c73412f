"""Side-by-side measurement: what is counted, what is refused, and what the bound is."""

from __future__ import annotations

import pytest

from phronesis.cli.bench import faster, row
from phronesis.engine.speed import workload
from phronesis.engine.speed.bound import Rates, seconds
from phronesis.engine.speed.process import Process, Refused
from phronesis.engine.speed.run import Line, Plan, measure
from phronesis.engine.speed.sides import Generate, Ours
from phronesis.engine.speed.vllm_side import INTERPRETER
from phronesis.engine.speed.workload import Work, check, prompts
from phronesis.errors import ConfigError
from phronesis.models.tiny import TinyModel

SMALL = Work(size="0.3M", batch=3, prompt=8, new=4, turns=2, shared=3)


def test_work_counts_what_is_sampled_and_how_long_sequences_get():
    assert SMALL.tokens == 3 * 4 * 2
    assert SMALL.longest == 8 + 4 + workload.OBSERVED + 4
    made = prompts(SMALL)
    assert [len(p) for p in made] == [8, 8, 8] and len({tuple(p) for p in made}) == 3
    assert {tuple(p[:3]) for p in made} == {(1, 2, 3)} and len({p[3] for p in made}) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": "7B"}, "unknown size '7B'; known: 0.3M"),
        ({"new": 0}, "at least 1"),
        ({"shared": 8, "prompt": 8}, "fewer ids shared"),
        ({"turns": 100, "new": 64}, "do not fit the 4096"),
    ],
)
def test_impossible_work_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        check(Work(**{"size": "1M", **changes}))


def test_the_bound_of_a_model_counted_by_hand(monkeypatch):
    """Width 2, one head of 2, MLP 3, one layer: 34 numbers in matrices, 2,048 in the head. One prompt id is read (68 operations
    of products, 8 of attention over one key), one id is sampled (4,164 and 16 over two keys, which are 8 numbers)."""
    sizes = TinyModel(width=2, layers=1, heads=1, kv_heads=1, head_dim=2, mlp_width=3)
    monkeypatch.setitem(workload.SIZES, "toy", sizes)
    work = Work(size="toy", batch=1, prompt=2, new=1)
    assert seconds(work, Rates(flops=1.0, memory=1e30)) == 68 + 8 + 4164 + 16
    assert seconds(work, Rates(flops=1e30, memory=1.0)) == 4 * 34 + 4 * (34 + 2048 + 8)


def test_both_sides_do_the_whole_work():
    for side in (Ours(), Generate()):
        side.load("0.3M")
        assert side.run(SMALL) > 0


def test_a_run_compares_sides_round_by_round():
    plan = Plan(works=(Work(size="0.3M", batch=2, prompt=8, new=4),), sides=("ours", "eager"), threads=1, rounds=2)
    found = measure(plan)
    ours, eager = found.lines
    assert (ours.side, eager.side, eager.name) == ("ours", "eager", "phronesis, in PyTorch")
    assert len(ours.rates) == 2 and ours.rates[0] == 8 / ours.seconds[0] and ours.ratios == ()
    assert eager.ratios == tuple(e / o for e, o in zip(eager.seconds, ours.seconds, strict=True))
    assert found.machine.flops > 1e8 and ours.share is not None and 0 < ours.share < 1


def test_a_side_that_cannot_says_why_and_goes_on(monkeypatch, tmp_path):
    monkeypatch.setenv(INTERPRETER, str(tmp_path / "none"))
    process = Process("vllm", 1)
    try:
        for _ in range(2):
            with pytest.raises(Refused, match=f"no vLLM here: set {INTERPRETER}"):
                process.run(SMALL)
    finally:
        process.close()


def test_the_first_side_must_be_ours():
    with pytest.raises(ConfigError, match="first side must be ours"):
        measure(Plan(works=(SMALL,), sides=("generate",)))


def test_rows_show_medians_and_ranges():
    line = Line(
        work=SMALL, side="generate", name="peer", seconds=(2, 4, 8), rates=(12, 6, 3), ratios=(5.0, 2.0, 3.0), share=0.25
    )
    assert faster(line) == "3.00 (2.00-5.00)"
    assert row(line) == ("0.3M", "3", "8", "4", "2", "peer", "6", "3.00 (2.00-5.00)", "25 %")
    refused = Line(work=SMALL, side="vllm", name="vLLM", refused="no vLLM here")
    assert row(refused)[-3:] == ("none", "no vLLM here", "")
