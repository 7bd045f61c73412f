"""Rules of turns inside whole runs: re-runs are counted, settling sees the whole step, equal runs agree."""

import pytest
from tiny_jobs import config

from phronesis.config import load
from phronesis.credit import CriticalCredit, EMPGCredit, SelfDistilledCredit, TreeCredit, VinePPOCredit
from phronesis.errors import ConfigError
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.config import EvalConfig, RunConfig
from phronesis.train.metrics import undefined

QUIET = EvalConfig(tasks=0)


def curves(folder, rule, *names):
    """Values of these metrics, step by step."""
    job.run(config(evaluation=QUIET, credit=rule, steps=2), folder)
    with Run.open(folder) as run:
        assert undefined(k for s in run.steps() for k in s.values) == ()
        return [[v for _, v in run.curve(name)] for name in names]


RULES = [EMPGCredit(), CriticalCredit(share=0.5), TreeCredit(), SelfDistilledCredit()]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_a_rule_of_turns_trains(tmp_path, rule):
    (tokens,) = curves(tmp_path / "run", rule, "update/tokens")
    assert max(tokens) > 0


def test_vineppo_plays_on_and_says_what_it_took(tmp_path):
    names = ("rerun/episodes", "rerun/faults", "update/tokens", "reward/mean")
    one, two = (curves(tmp_path / name, VinePPOCredit(rollouts=2), *names) for name in ("one", "two"))
    assert one == two
    assert len(one[0]) == 2 and min(one[0]) >= 2 * 8, "at least one turn of 8 episodes, twice"
    assert one[1] == [0.0, 0.0] and max(one[2]) > 0


def test_a_group_of_one_is_enough_for_values_and_not_for_entropy():
    alone = ["group_size=1", "groups=4"]
    load(RunConfig, overrides=[*alone, "credit.type=vineppo"], base=config()).validate()
    for rule in ("empg", "mt_grpo", "critical"):
        with pytest.raises(ConfigError, match="group_size 1"):
            load(RunConfig, overrides=[*alone, f"credit.type={rule}"], base=config()).validate()
