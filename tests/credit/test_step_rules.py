"""Rules whose credit depends on the whole step: REINFORCE++, GPG, LitePPO, GDPO, TRR++, hierarchical."""

import asyncio

import pytest
from credit_groups import episode, group, returns

from phronesis.credit.baselines.batchwide import GDPOCredit, GPGCredit, LitePPOCredit
from phronesis.credit.baselines.cells import HierarchicalCredit, TRRPPCredit
from phronesis.credit.baselines.whitening import ReinforcePPBaselineCredit, ReinforcePPCredit
from phronesis.credit.rule import CreditRule, Settles, sampled_values
from phronesis.errors import ConfigError
from phronesis.records import Stop

ALL = (ReinforcePPCredit(), ReinforcePPBaselineCredit(), GPGCredit(), LitePPOCredit(), GDPOCredit())


def settle(rule, *groups):
    assert isinstance(rule, CreditRule) and isinstance(rule, Settles)
    return rule.settle(groups, [asyncio.run(rule.assign(g)) for g in groups])


def numbers(groups, credits):
    """All credit of sampled tokens, in order."""
    pairs = zip(groups, credits, strict=True)
    return [a for g, c in pairs for row in sampled_values(g, c).values() for a in row]


def test_reinforce_pp():
    groups = [returns(1.0, tokens=2), returns(0.0, tokens=1), returns(0.5, tokens=2)]
    found = numbers(groups, settle(ReinforcePPCredit(), *groups))
    assert found == pytest.approx([0.956183, 0.956183, -1.434274, -0.239046, -0.239046], abs=1e-6)


def test_reinforce_pp_never_counts_forced_tokens_and_faults():
    broken = episode([9.0], stop=Stop.env_fault)
    groups = [group(episode([1.0], sampled=(True, False, True)), broken), returns(0.0, tokens=2, name="h")]
    credits = settle(ReinforcePPCredit(), *groups)
    # (1, 1, 0, 0): mean .5, Bessel variance 1/3
    assert credits[0].values == (((pytest.approx(0.8660254), 0.0, pytest.approx(0.8660254)),), None)
    assert credits[0].reasons == (None, "env_fault")
    assert numbers(groups[1:], credits[1:]) == pytest.approx([-0.8660254] * 2)


def test_reinforce_pp_with_a_baseline():
    groups = [returns(1, 0, tokens=1), returns(1, 1, tokens=1, name="h")]
    credits = settle(ReinforcePPBaselineCredit(), *groups)
    assert numbers(groups, credits) == pytest.approx([1.224745, -1.224745, 0, 0], abs=1e-6)
    assert [c.zero_variance for c in credits] == [False, True]


def test_gpg():
    groups = [returns(1, 0, 1), returns(1, 1, 1, name="h"), returns(0, 0, 0, name="i")]
    credits = settle(GPGCredit(), *groups)
    assert [row[0] for g, c in zip(groups, credits, strict=True) for row in sampled_values(g, c).values()] == pytest.approx(
        [1, -2, 1, 0, 0, 0, 0, 0, 0]
    )
    assert [c.zero_variance for c in credits] == [False, True, True]


def test_lite_ppo():
    groups = [returns(1, 0, tokens=1), returns(0, 3, tokens=1, name="h")]
    found = numbers(groups, settle(LitePPOCredit(), *groups))
    assert found == pytest.approx([0.353553, -0.353553, -1.06066, 1.06066], abs=1e-5)


def parts(**scores):
    return episode([0.0], parts=scores, sampled=(True,))


def test_gdpo():
    played = group(parts(right=1.0, short=1.0), parts(right=0.0, short=1.0), parts(right=0.0, short=0.0))
    rule = GDPOCredit(weights={"right": 1.0, "short": 1.0}, eps=1e-4)
    first = asyncio.run(rule.assign(played))
    assert numbers([played], [first]) == pytest.approx([1.73175, 0, -1.73175], abs=1e-5)
    assert numbers([played], settle(rule, played)) == pytest.approx([1, 0, -1], abs=1e-5)
    # by itself it takes the components there are, with their weights
    assert settle(GDPOCredit(eps=1e-4), played) == settle(rule, played)


def test_gdpo_over_tokens_counts_long_samples_more():
    played = group(episode([1.0], sampled=(True,)), episode([0.0], sampled=(True,) * 3))
    # z-scores of the group .70711 and -.70711, three of four tokens low
    found = numbers([played], settle(GDPOCredit(tokens=True), played))
    assert found == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)


def test_gdpo_survives_an_episode_that_sampled_nothing():
    played = group(episode([1.0], sampled=(False,)), episode([1.0]), episode([0.0]))
    (credit,) = settle(GDPOCredit(), played)
    assert credit.values[0] == ((0.0,),)
    assert [values[0][0] for values in credit.values[1:]] == pytest.approx([0.7071, -0.7071], abs=1e-3)


@pytest.mark.parametrize("rule", ALL, ids=lambda r: type(r).__name__)
def test_a_step_without_differences_has_no_signal(rule):
    groups = [returns(0.3, 0.3), returns(0.3, 0.3, name="h")]
    credits = settle(rule, *groups)
    assert not any(numbers(groups, credits)) and all(c.zero_variance for c in credits)


@pytest.mark.parametrize("rule", ALL, ids=lambda r: type(r).__name__)
def test_the_order_of_groups_does_not_matter(rule):
    groups = [returns(1, 0, 0.5), returns(0.2, 1, tokens=3, name="h"), returns(0, 0, name="i")]
    plain = settle(rule, *groups)
    turned = settle(rule, *groups[::-1])[::-1]
    assert numbers(groups, turned) == pytest.approx(numbers(groups, plain))
    assert [c.group for c in turned] == [c.group for c in plain]


@pytest.mark.parametrize("rule", ALL, ids=lambda r: type(r).__name__)
def test_nothing_but_faults(rule):
    broken = group(episode([1.0], stop=Stop.env_fault), episode([1.0], stop=Stop.cancelled))
    (credit,) = settle(rule, broken)
    assert credit.values == (None, None) and credit.reasons == ("env_fault", "cancelled")


def test_cells_are_compared_over_groups():
    solve, propose = {"kind": "ded", "role": "solve"}, {"kind": "ded", "role": "propose"}
    groups = [
        returns(1, 0, tokens=1, payload=solve),
        returns(0, tokens=1, payload=solve, name="h"),
        returns(0.5, tokens=1, payload=propose, name="i"),
    ]
    found = numbers(groups, settle(TRRPPCredit(), *groups))
    assert found == pytest.approx([1.1546985, -0.5773492, -0.5773492, 0], abs=1e-6)
    with pytest.raises(ConfigError, match="payload 'kind'"):
        asyncio.run(TRRPPCredit().assign(returns(1)))


def test_proposers_are_compared_with_one_another():
    solve, propose = {"role": "solve"}, {"role": "propose"}
    groups = [
        returns(1, 1, 0, tokens=1, payload=solve),
        returns(0.5, tokens=1, payload=propose, name="h"),
        returns(1, 0, tokens=1, payload=solve, name="i"),
        returns(0.25, tokens=1, payload=propose, name="j"),
    ]
    found = numbers(groups, settle(HierarchicalCredit(), *groups))
    assert found == pytest.approx([1 / 3, 1 / 3, -2 / 3, 0.125, 0.5, -0.5, -0.125])
