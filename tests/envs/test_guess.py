"""Pins: the guess world's known values by enumeration, its credit structure, and that its class needs only Python."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from env_scripts import act, call, play, texts

from phronesis.envs import guess, guess_game
from phronesis.envs.guess_game import GuessNumber
from phronesis.errors import ConfigError


def earned(secret, guesses, high=9, calls=4):
    game = GuessNumber()
    game.reset(secret, high, calls)
    for number in guesses:
        if game.found:
            break
        game.guess(number)
    return game.get_reward()


def test_uniform_guessing_by_enumeration():
    total = sum(earned(7, guesses) for guesses in itertools.product(range(10), repeat=4))
    assert total / 10**4 == pytest.approx(0.29683)
    assert guess.chance_reward(10, 4) == pytest.approx(0.29683, abs=1e-12)


def test_guessing_without_repeats_by_enumeration():
    orders = list(itertools.permutations(range(10), 4))
    assert sum(earned(3, o) for o in orders) / len(orders) == pytest.approx(0.34)


def best_by_search(low, high, calls, depth=0):
    """Sum over the secrets in [low, high] of the best reachable reward: exhaustive search over strategies."""
    if low > high or calls == 0:
        return 0.0
    return max(
        1 - 0.1 * depth + best_by_search(low, g - 1, calls - 1, depth + 1) + best_by_search(g + 1, high, calls - 1, depth + 1)
        for g in range(low, high + 1)
    )


@pytest.mark.parametrize(("high", "calls"), [(9, 4), (9, 2), (15, 3), (1, 1), (6, 3)])
def test_the_optimum_by_exhaustive_search(high, calls):
    assert guess.best_reward(high + 1, calls) == pytest.approx(best_by_search(0, high, calls) / (high + 1))


def test_the_known_optimum():
    assert guess.best_reward(10, 4) == pytest.approx(0.81)


def test_answers_states_and_rewards_of_one_game():
    actions = [act(call("guess", {"number": n})) for n in (4, 6, 5)]
    played, reward = play(guess.make(), actions, index=5)
    assert [texts(r) for r in played.replies] == [["higher"], ["lower"], ["correct"]]
    assert played.opening.state_key == "0-9/4"
    assert [r.state_key for r in played.replies] == ["5-9/3", "5-5/2", "5-5/1!"]
    assert [r.done for r in played.replies] == [False, False, True]
    assert reward.by_turn(3) == pytest.approx((0.0, 0.0, 0.8))


def test_the_fourth_wrong_guess_ends_it_and_mistakes_cost_no_guess():
    bad = act(call("guess", {"number": "five"}))
    wrong = act(call("guess", {"number": 0}))
    played, reward = play(guess.make(), [bad, wrong, wrong, wrong, wrong], index=9)
    assert [r.done for r in played.replies] == [False, False, False, False, True]
    assert played.episode.errors == ("bad_argument",)
    assert reward.value == 0.0


def test_as_trl_plays_it_the_episode_goes_on_until_a_message_without_calls():
    spec = guess.make(turn_rewards=False, stop_when_over=False)
    right = act(call("guess", {"number": 2}))
    played, reward = play(spec, [right, right], index=2)
    assert [texts(r) for r in played.replies] == [["correct"], ["error: the game is over"]]
    assert not played.replies[-1].done
    assert reward.value == 1.0


def test_the_class_needs_nothing_but_python():
    # Loaded from its file, as a peer does that has no Phronesis installed.
    code = (
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('guess_game', {guess_game.__file__!r})\n"
        "g = u.module_from_spec(spec); spec.loader.exec_module(g)\n"
        "assert not {'torch', 'msgspec', 'numpy', 'gymnasium'} & set(sys.modules), sorted(sys.modules)\n"
        "game = g.GuessNumber(); game.reset(secret=4, prompt='x', index=1)\n"
        "assert game.guess(4) == 'correct' and game.get_reward() == 1.0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_out_of_range_is_refused():
    for bad in ({"high": 0}, {"calls": 0}, {"calls": 11}):
        with pytest.raises(ConfigError, match="guess needs"):
            guess.make(**bad)
