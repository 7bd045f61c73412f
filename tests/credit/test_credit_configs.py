"""Every built-in rule is chosen by its tag, in a file or on the command line, and says whether it can do with one episode."""

from typing import get_args

import msgspec
import pytest

from phronesis import credit
from phronesis.credit import CreditConfig, CreditRule, RoleBaselines
from phronesis.errors import ConfigError
from phronesis.train.config import RunConfig

TAGS = {
    "reinforce_pp": False,
    "reinforce_pp_baseline": True,
    "gpg": True,
    "lite_ppo": True,
    "gdpo": True,
    "opo": True,
    "length_penalty": True,
    "otb": True,
    "remax": False,
    "rae": False,
    "trrpp": False,
    "hierarchical": True,
}


@pytest.mark.parametrize(("tag", "siblings"), TAGS.items())
def test_a_tag_chooses_a_rule(tag, siblings):
    chosen = msgspec.convert({"type": tag}, CreditConfig)
    assert isinstance(credit.build(chosen), CreditRule)
    alone = RunConfig(name="alone", group_size=1, groups=8, credit=chosen)
    if siblings:
        with pytest.raises(ConfigError, match="group_size 1"):
            alone.validate()
    else:
        alone.validate()


@pytest.mark.parametrize("tag", ["maxrl", "best_only"])
def test_a_tag_chooses_a_baseline(tag):
    chosen = msgspec.convert({"type": "trajectory", "baseline": {"type": tag}}, CreditConfig)
    with pytest.raises(ConfigError, match=r'credit\.baseline\.type = "none"'):
        RunConfig(name="alone", group_size=1, groups=8, credit=chosen).validate()


def test_tags_are_unique():
    tags = [rule.__struct_config__.tag for rule in get_args(CreditConfig)]
    assert len(tags) == len(set(tags)) and set(TAGS) <= set(tags)


def test_a_rule_that_remembers_begins_anew_with_every_run():
    chosen = credit.RoleBaselineCredit()
    first, second = credit.build(chosen), credit.build(chosen)
    assert isinstance(first, RoleBaselines) and first is not second
