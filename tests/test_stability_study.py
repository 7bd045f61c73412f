"""The stability study: exact lag, noise of the sampler, one control for all methods, verdicts, resuming, and the picture."""

import asyncio
import xml.etree.ElementTree as ET

import msgspec
import pytest
import torch
from bench.heatmap import Heatmap, Panel, Tile, colour, contrast, draw, ink
from bench.lagged import LaggedSampler, recorded, rounded
from bench.stability import LAGS, MISMATCHES, SEEDS, cells, main, outcomes, report, study
from bench.survival import details, fallen, final, judge, judged, picture, pooled, same_control, survivors
from bench.trial import METHODS, Cell, Method, Outcome, Settings, Start, Trial, base, learner_config, world
from msgspec.structs import replace

from phronesis.engine.embedded import EmbeddedEngine, EngineConfig
from phronesis.losses import LossConfig, PPOClipLoss
from phronesis.models.decoder import Decoder
from phronesis.models.opening import open_model
from phronesis.models.tiny import TinyModel, tiny
from phronesis.records import Batch, Segment
from phronesis.rollout.play import play_groups
from phronesis.train import job

SMALL = Settings(steps=6)
CONTROL = Cell(method="plain", lag=0, mismatch="none", seed=0)


@pytest.fixture(scope="module")
def start() -> Start:
    return Start(SMALL, 0)


def flat(decoder: Decoder) -> torch.Tensor:
    """All weights in one row."""
    return torch.cat([p.detach().flatten() for p in decoder.parameters()])


def trained(start: Start, cell: Cell, settings: Settings = SMALL) -> tuple[Trial, Outcome]:
    trial = Trial(start, cell, settings)
    return trial, asyncio.run(trial.run())


# The sampler


def test_int8_by_hand():
    """The largest of a row is 127 steps: 1.27 makes steps of .01, 2.54 of .02; rows of zeros stay; a half goes to the even."""
    weight = torch.tensor([[1.27, -0.634, 0.006], [0.0, 0.0, 0.0], [-2.54, 0.05, 0.029]], dtype=torch.float64)
    expected = torch.tensor([[1.27, -0.63, 0.01], [0.0, 0.0, 0.0], [-2.54, 0.04, 0.02]], dtype=torch.float64)
    torch.testing.assert_close(rounded(weight, 127), expected, rtol=0, atol=1e-12)


def test_int4_has_fifteen_values():
    weight = torch.linspace(-1, 1, 1001)[None]
    assert rounded(weight, 7).unique().numel() == 15


def test_what_each_arithmetic_makes_of_known_weights():
    """bfloat16 keeps 8 bits: 1 + 2^-8 lies between 1 and 1 + 2^-7 and goes to the even, 1; 1 + 3 x 2^-8 goes to 1 + 2^-6."""
    decoder = tiny(TinyModel(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=16), 20, seed=0)
    with torch.no_grad():
        decoder.embed[0, :3] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 127.0])
        decoder.final_norm.fill_(1 + 2**-8)
    kept = {m: LaggedSampler(decoder, lag=0, mismatch=m).sampling for m in ("none", "bf16", "int8", "int4")}
    assert kept["bf16"].dtype == torch.bfloat16
    assert kept["bf16"].embed[0, :3].tolist() == [1.0, 1 + 2**-6, 127.0]
    assert kept["int8"].embed[0, :3].tolist() == [1.0, 1.0, 127.0]
    assert kept["int4"].embed[0, :3].tolist() == [0.0, 0.0, 127.0]
    assert kept["int8"].final_norm[0] == 1 + 2**-8
    assert torch.equal(flat(kept["none"]), flat(decoder))
    for sampler in kept.values():
        assert not any(p.requires_grad for p in sampler.parameters())


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_the_sampler_is_behind_by_exactly_the_lag(start, lag):
    """What step k sampled has, bit for bit, the log-probabilities of the weights after k - K updates, and says so."""
    trial = Trial(start, replace(CONTROL, lag=lag), SMALL)
    checkpoints = [start.policy()]

    async def play(step: int):
        return await play_groups(trial.stage, trial.source.draw(1), size=4, seed=0, name="look", step=step)

    async def look() -> None:
        for k in range(SMALL.steps):
            expected = max(0, k - lag)
            scorer = EmbeddedEngine(checkpoints[expected], EngineConfig(slots=16, native=False))
            for episode in (e for g in await play(k) for e in g.episodes):
                (turn,) = episode.turns
                assert turn.version == (expected, expected)
                scores = await scorer.score(turn.context + turn.completion)
                assert scores[len(turn.context) - 1 :] == turn.logprobs
            await trial.step(k)
            fresh = start.policy()
            fresh.load_state_dict(trial.decoder.state_dict())
            checkpoints.append(fresh)

    asyncio.run(look())
    assert len({float(flat(c).double().sum()) for c in checkpoints}) == len(checkpoints)  # every update changed something


def test_mismatch_is_measured_against_the_weights_that_sampled(start):
    """With lag, the distance of the arithmetics stays that of the arithmetics; what the lag adds is in the drift."""
    found = {
        m: trained(start, Cell(method="plain", lag=3, mismatch=m, seed=0), replace(SMALL, lr=1e-2))[1]
        for m in ("none", "bf16", "int8", "int4")
    }
    assert found["none"].mismatch_kl == found["none"].mismatch_max == 0.0
    assert 0 < found["bf16"].mismatch_kl < 1e-2 and 0 < found["int8"].mismatch_kl < 1e-2
    assert found["int4"].mismatch_kl > 10 * found["int8"].mismatch_kl
    assert all(o.drift_kl > 2 * o.mismatch_kl for o in found.values() if o.cell.mismatch != "int4")
    assert all(o.ratio_max > 1 for o in found.values())


def test_recorded_puts_numbers_at_trained_tokens_alone():
    common = {"advantages": (0.0, 0.0, 0.0), "turns": (-1, 0, 0), "trace": 0, "episode": 0, "temperature": 1.0}
    segment = Segment(parent=None, ids=(4, 5, 6), mask=(False, True, True), logprobs=(0.0, -1.0, -2.0), **common)
    batch = Batch(segments=(segment,), episodes=("e",), sequence_tokens=(2,), total_tokens=2, total_sequences=1, total_turns=1)
    assert recorded(batch, torch.tensor([-0.5, -0.25])).segments[0].logprobs == (0.0, -0.5, -0.25)
    assert batch.segments[0].logprobs == (0.0, -1.0, -2.0)


# The control


def test_without_lag_and_mismatch_all_methods_are_one_to_the_bit(start):
    ends = {name: trained(start, replace(CONTROL, method=name)) for name in METHODS}
    first, outcome = ends["plain"]
    assert not torch.equal(flat(first.decoder), flat(start.decoder))
    for trial, other in ends.values():
        assert torch.equal(flat(trial.decoder), flat(first.decoder))
        assert other.rewards == outcome.rewards
        assert (other.ratio_max, other.drift_kl, other.left_out) == (1.0, 0.0, 0.0)


def test_with_lag_they_part(start):
    """Every method weighs stale tokens in its own way. Two do not part as long as no ratio leaves 1/2 to 2: truncation at 2,
    masking outside and no bound are then the same weight."""
    ends = {n: flat(trained(start, Cell(method=n, lag=2, mismatch="none", seed=0))[0].decoder) for n in METHODS}
    apart = ("plain", "PPO-clip", "TIS", "DIS", "M2PO")
    for i, a in enumerate(apart):
        for b in apart[i + 1 :]:
            assert not torch.equal(ends[a], ends[b]), (a, b)


def test_clipping_against_the_policy_before_the_update_is_plain(start, monkeypatch):
    """With one step a batch its ratio is 1 at any lag: the linter's rule clipping-inert, and why the study clips against the
    sampler."""
    monkeypatch.setitem(METHODS, "inert", Method(LossConfig(objective=PPOClipLoss())))
    plain, inert = (trained(start, Cell(method=n, lag=3, mismatch="none", seed=0))[0] for n in ("plain", "inert"))
    assert torch.equal(flat(plain.decoder), flat(inert.decoder))


def test_the_control_is_the_plain_loop_of_the_library(start, tmp_path):
    """Same weights, bit for bit, as `phronesis train` with the same settings."""
    settings = SMALL
    learner = replace(learner_config(METHODS["plain"], settings, 0), seed=0)  # a job mixes in the run's seed itself
    config = replace(base(settings, 0), learner=learner, engine=EngineConfig(native=False))
    job.run(config, tmp_path / "run", spec=world(settings))
    theirs = open_model(tmp_path / "run" / "checkpoints" / f"step-{settings.steps:08d}")
    ours, _ = trained(start, CONTROL)
    assert isinstance(theirs, Decoder)
    assert torch.equal(flat(theirs), flat(ours.decoder))


# Verdicts


def outcome(rewards: list[float], cell: Cell = CONTROL, **changes) -> Outcome:
    base_ = Outcome(
        cell=cell, settings=Settings(steps=len(rewards)), rewards=rewards, mismatch_kl=0.0, mismatch_max=0.0, drift_kl=0.0,
        ratio_max=1.0, left_out=0.0, cpu_seconds=0.0,
    )  # fmt: skip
    return replace(base_, **changes)


def test_verdicts_by_hand():
    """Control 1, chance .5, twenty steps, so the end is two steps; near is .9, fallen is below .75, means are of five."""
    learned = outcome([0.5] * 5 + [1.0] * 15)
    assert judge(learned, 1.0, 0.5) == (1.0, 1.0, 8, None, True)  # (.5 + 4 x 1) / 5 = .9 at step 8
    recovered = outcome([0.5] * 5 + [1.0] * 5 + [0.5] * 3 + [1.0] * 7)
    assert judge(recovered, 1.0, 0.5) == (1.0, 1.0, 8, 12, False)  # steps 8 to 12: (2 + 3 x .5) / 5 = .7
    brief = outcome([0.5] * 5 + [1.0] * 5 + [0.5] * 2 + [1.0] * 8)
    assert judge(brief, 1.0, 0.5) == (1.0, 1.0, 8, None, True)  # two bad steps make .8
    late = outcome([0.5] * 18 + [0.9, 0.89])
    assert judge(late, 1.0, 0.5) == (pytest.approx(0.895), pytest.approx(0.658), None, None, False)
    broken = outcome([0.5] * 5 + [1.0] * 3, error="the loss is nan", settings=Settings(steps=20))
    assert judge(broken, 1.0, 0.5) == (0.0, pytest.approx(0.8), None, None, False)


def test_tables_say_what_happened():
    good, bad = [0.5] * 5 + [1.0] * 15, [0.5] * 20
    runs = [
        outcome(good),
        outcome(good, replace(CONTROL, method="TIS")),
        outcome(good, replace(CONTROL, lag=8)),
        outcome(bad, replace(CONTROL, lag=8, seed=1)),
        outcome(good, replace(CONTROL, seed=1)),
        outcome(bad, replace(CONTROL, lag=8, seed=7)),  # no control of that seed: no verdict
    ]
    found = judged(runs, 0.5)
    table = survivors(found, (0, 8), "none").splitlines()
    assert table[0] == "| method | K = 0 | K = 8 |"
    assert table[2] == "| plain | 2/2 (1.00) | 1/2 (0.75) |"
    assert table[4] == "| TIS | 1/1 (1.00) | – |"
    runs.append(outcome(bad, replace(CONTROL, mismatch="int8")))
    assert pooled(judged(runs, 0.5), (0, 8)).splitlines()[2] == "| plain | 2/3 | 1/2 |"
    runs.append(outcome([0.5] * 5 + [1.0] * 5 + [0.5] * 10, replace(CONTROL, lag=8, mismatch="int8")))
    assert fallen(judged(runs, 0.5), (0, 8)).splitlines()[2] == "| plain | 0/2 | 1/2 |"
    rows = details(found).splitlines()
    assert rows[-1] == "| none | 8 | plain | 0.750 | 0.750 | 1/2 | 8, – | – | 0 | 0 | 0 | 1 | 0.0 % |"
    assert same_control(runs) == {0: True, 1: True}
    runs[1] = replace(runs[1], rewards=[*good[:-1], 0.99])
    assert same_control(runs) == {0: False, 1: True}


def test_a_control_that_did_not_learn_judges_nobody(tmp_path, capsys):
    """Beside a control that ends at chance, chance would survive."""
    good, bad = [0.5] * 5 + [1.0] * 15, [0.5] * 20
    runs = [outcome(r, replace(CONTROL, seed=s, lag=k)) for s, r in ((0, good), (1, bad)) for k in (0, 8)]
    assert [o.cell.seed for rows in judged(runs, 0.5).values() for o, _ in rows] == [0, 0]
    report(runs, tmp_path / "s.svg")
    assert "seed 1: left out, since its control did not learn (it ends at 0.50)" in capsys.readouterr().out


# The grid


def test_the_grid_goes_seed_by_seed_from_the_control():
    grid = cells(LAGS, MISMATCHES, list(METHODS), SEEDS)
    assert len(grid) == len(set(grid)) == 5 * 3 * 7 * 3
    assert [c.seed for c in grid] == [0] * 105 + [1] * 105 + [2] * 105
    assert grid[0] == CONTROL and grid[105] == replace(CONTROL, seed=1)
    assert cells((8,), ("int8",), ["TIS"], (4,))[0] == replace(CONTROL, seed=4)  # added where it was not asked for


def test_an_interrupted_study_goes_on(tmp_path, capsys):
    """Finished runs are kept to the byte, a line that was cut off is done again, and the results are those of one go."""
    settings = replace(SMALL, steps=2, demonstrations=40)
    wanted = cells((0, 1), ("none",), ["plain", "DIS"], (0,))
    whole = study(tmp_path / "whole" / "runs.jsonl", settings, wanted)
    path = tmp_path / "cut" / "runs.jsonl"
    lines = (tmp_path / "whole" / "runs.jsonl").read_bytes().splitlines(keepends=True)
    other = msgspec.json.encode(replace(whole[0], settings=replace(settings, lr=1.0))) + b"\n"
    path.parent.mkdir()
    path.write_bytes(lines[0] + other + lines[1] + lines[2][:40])
    capsys.readouterr()
    resumed = study(path, settings, wanted)
    assert capsys.readouterr().err.count("\n") == 2
    assert path.read_bytes().startswith(lines[0] + other + lines[1])
    bare = [[replace(o, cpu_seconds=0.0) for o in runs] for runs in (whole, resumed)]
    assert bare[0] == bare[1]
    assert len(outcomes(path)) == 5
    report(resumed, tmp_path / "s.svg")
    assert "all methods have the same curve" in capsys.readouterr().out
    ET.parse(tmp_path / "s.svg")


def test_the_command(tmp_path, capsys):
    chosen = ["--steps", "2", "--seeds", "0", "--lags", "1", "--mismatches", "none", "--methods", "DIS", "--draws", "0", "3"]
    main([*chosen, "--out", str(tmp_path)])
    assert [(o.cell.method, o.cell.lag, o.cell.draw) for o in outcomes(tmp_path / "runs.jsonl")] == [
        ("plain", 0, 0), ("DIS", 1, 0), ("DIS", 1, 3),
    ]  # fmt: skip
    first, second, third = (o.rewards for o in outcomes(tmp_path / "runs.jsonl"))
    assert first[0] == second[0]  # nobody has learned yet: same start and draw, same games
    assert second != third
    assert "3 runs" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--methods", "PPO"])


# The picture

SVG = "{http://www.w3.org/2000/svg}"


def test_colours():
    assert colour(0) == "#00224e" and colour(0.5) == "#7c7b78" and colour(1) == colour(7) == "#fee838"
    assert min(contrast(ink(colour(i / 200)), colour(i / 200)) for i in range(201)) >= 4.5  # WCAG AA
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_a_picture_has_the_numbers_in_their_cells():
    tiles = [[Tile(0.0, ("0/3", "0.48")), Tile(1.0, ("3/3", "1.00"))], [Tile(None, ("–",)), Tile(0.5, ("a<b",))]]
    image = Heatmap(
        title="T & T", note="how to read", rows=("plain", "TIS"), columns=("0", "8"), columns_title="lag K",
        panels=[Panel("one", tiles), Panel("two", tiles)], marks=((0.0, "none"), (1.0, "all")),
    )  # fmt: skip
    root = ET.fromstring(draw(image))
    width, height = 58, 40
    cells_ = [r for r in root.iter(f"{SVG}rect") if (r.get("width"), r.get("height")) == (str(width), str(height))]
    assert [r.get("fill") for r in cells_] == ["#00224e", "#fee838", "#ffffff", "#7c7b78"] * 2
    texts = {(float(t.get("x", "")), float(t.get("y", ""))): (t.text, t.get("fill")) for t in root.iter(f"{SVG}text")}
    for cell, lines in zip(cells_, [t.lines for row in tiles for t in row] * 2, strict=True):
        x, y = float(cell.get("x", "")), float(cell.get("y", ""))
        within = [(ty, said) for (tx, ty), said in texts.items() if x < tx < x + width and y < ty < y + height]
        assert tuple(said[0] for _, said in sorted(within)) == lines
        assert {said[1] for _, said in within} == {ink(cell.get("fill", ""))}
    assert {"T & T", "how to read", "plain", "TIS", "lag K", "one", "two", "none", "all"} <= {
        said[0] for said in texts.values()
    }
    assert not root.findall(f".//{SVG}image") and "href" not in draw(image)  # nothing from outside


def test_the_study_is_drawn_by_survivors():
    good, bad = [0.5] * 5 + [1.0] * 15, [0.5] * 20
    runs = [outcome(r, replace(CONTROL, seed=s, lag=k)) for s in (0, 1) for k, r in ((0, good), (8, bad if s else good))]
    image = picture(judged(runs, 0.5), (0, 8), ("none",), "title")
    first = image.panels[0].tiles[0]
    assert first == [Tile(1.0, ("2/2", "1.00")), Tile(0.5, ("1/2", "0.75"))]
    assert image.panels[0].tiles[1] == [Tile(None, ("–",)), Tile(None, ("–",))]
    assert image.marks == [(0.0, "0/2"), (0.5, "1/2"), (1.0, "2/2")]


def test_a_run_that_ends_early_has_no_end():
    assert final(outcome([1.0, 1.0], error="x", settings=Settings(steps=20))) == 0.0
    assert final(outcome([0.0] * 18 + [1.0, 0.5])) == 0.75
