"""Credit rules inside whole runs: memory survives a resume, re-runs play the greedy episode, settling changes the update."""

import pytest
from msgspec.structs import replace
from tiny_jobs import Stopped, config, essence, stop_at

from phronesis.credit import GDPOCredit, GPGCredit, ReinforcePPCredit, ReMaxCredit, RoleBaselineCredit
from phronesis.store import Run
from phronesis.train import checkpoint, job
from phronesis.train.config import EvalConfig
from phronesis.train.metrics import undefined

QUIET = EvalConfig(tasks=0)


def test_running_baselines_survive_a_resume(tmp_path):
    chosen = config(evaluation=QUIET, credit=RoleBaselineCredit(keys=(), decay=0.5), steps=4)
    job.run(chosen, tmp_path / "whole")
    with pytest.raises(Stopped):
        job.run(chosen, tmp_path / "cut", listener=stop_at("train", 3))
    job.run(chosen, tmp_path / "cut", resume=True)
    assert essence(tmp_path / "whole", 4) == essence(tmp_path / "cut", 4)
    kept = [checkpoint.load(tmp_path / folder / "checkpoints" / "step-00000004").manifest.credit for folder in ("whole", "cut")]
    assert kept[0] == kept[1] and set(kept[0]) == {""} and kept[0][""] > 0


@pytest.mark.parametrize(
    "rule", [ReinforcePPCredit(), GPGCredit(), GDPOCredit(), ReMaxCredit()], ids=lambda r: type(r).__name__
)
def test_a_rule_trains(tmp_path, rule):
    chosen = config(evaluation=QUIET, credit=rule, steps=2)
    job.run(chosen, tmp_path / "run")
    job.run(replace(chosen, name="again"), tmp_path / "again")
    with Run.open(tmp_path / "run") as run, Run.open(tmp_path / "again") as again:
        assert undefined(k for s in run.steps() for k in s.values) == ()
        tokens = [v for _, v in run.curve("update/tokens")]
        assert max(tokens) > 0 and tokens == [v for _, v in again.curve("update/tokens")]
        if isinstance(rule, ReinforcePPCredit):
            spread = [v for _, v in run.curve("update/advantage_std")]
            assert spread == pytest.approx([1.0] * len(spread), abs=0.05), "whitened over the tokens of the step"
