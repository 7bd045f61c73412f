"""Credit by token, and rules whose credit depends on the whole step."""

import asyncio

import pytest
from credit_groups import episode, group

from phronesis.credit import NoBaseline, Settles, TrajectoryCredit, sampled_values, spread_tokens
from phronesis.errors import TrainingError


def test_one_number_per_sampled_token():
    played = group(episode([1.0, 0.0], sampled=(True, False)), episode([0.0]))
    credit = spread_tokens(played, {0: [0.1, 0.2], 1: [0.3, 0.4]}, zero_variance=False)
    assert credit.values == (((0.1, 0.0), (0.2, 0.0)), ((0.3, 0.4),))
    assert sampled_values(played, credit) == {0: [0.1, 0.2], 1: [0.3, 0.4]}


def test_too_many_numbers_are_refused():
    with pytest.raises(TrainingError, match="more numbers than the 2 sampled tokens"):
        spread_tokens(group(episode([1.0])), {0: [0.1, 0.2, 0.3]}, zero_variance=False)


def test_a_plain_rule_does_not_settle():
    assert not isinstance(TrajectoryCredit(), Settles)
    credit = asyncio.run(TrajectoryCredit(baseline=NoBaseline()).assign(group(episode([1.0]))))
    assert sampled_values(group(episode([1.0])), credit) == {0: [1.0, 1.0]}
