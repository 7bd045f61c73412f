"""Blackjack, with the exact value of its best and of random play.

The raw result (loss -1, draw 0, win 1) becomes the reward (0, 0.5, 1): a win is a success. A task is a deal: the cards one
starts with; the cards drawn later come from the episode's seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

from phronesis.env import EnvSpec
from phronesis.envs.adapters.gymnasium import GymnasiumEnv, RawWorld, World
from phronesis.envs.digest import digest, split_of
from phronesis.envs.trl_style import calling
from phronesis.errors import ConfigError
from phronesis.records import Message, Task
from phronesis.rewards import EnvReward
from phronesis.seeding import stream

DECK = tuple((card, 4 if card == 10 else 1) for card in range(1, 11))
"""Card values and how many of 13 there are; the deck is endless, an ace is 1."""


@dataclass(frozen=True, kw_only=True)
class Hand:
    """A hand as the rules see it."""

    total: int
    """Best sum, an ace counted as 11 where that does not exceed 21."""
    usable_ace: bool
    """True when an ace is counted as 11."""

    def add(self, card: int) -> Hand:
        """The hand with one more card.

        >>> Hand(total=16, usable_ace=True).add(9)
        Hand(total=15, usable_ace=False)
        """
        total, ace = self.total + card, self.usable_ace
        if card == 1 and not ace and total + 10 <= 21:
            total, ace = total + 10, True
        elif ace and total > 21:
            total, ace = total - 10, False
        return Hand(total=total, usable_ace=ace)


NO_CARDS = Hand(total=0, usable_ace=False)


@cache
def dealer_totals(hand: Hand) -> dict[int, float]:
    """Probability of each final total of a dealer who draws below 17; 0 stands for bust."""
    if hand.total >= 17:
        return {hand.total if hand.total <= 21 else 0: 1.0}
    totals: dict[int, float] = {}
    for card, count in DECK:
        for total, probability in dealer_totals(hand.add(card)).items():
            totals[total] = totals.get(total, 0.0) + probability * count / 13
    return totals


def stick_value(player: int, dealer: Hand) -> float:
    """Expected raw result of sticking with a total against a dealer's hand."""
    return sum(p * ((player > total) - (player < total)) for total, p in dealer_totals(dealer).items())


@cache
def value(player: Hand, dealer_card: int, best: bool) -> tuple[float, bool]:
    """Expected raw result of best (or random) play from here, and whether hitting is better than sticking."""
    if player.total > 21:
        return -1.0, False
    stick = stick_value(player.total, NO_CARDS.add(dealer_card))
    hit = sum(count / 13 * value(player.add(card), dealer_card, best)[0] for card, count in DECK)
    return (max(stick, hit) if best else (stick + hit) / 2), hit > stick


def mean_value(best: bool) -> float:
    """Expected raw result before the cards are dealt: about -0.047 for best, -0.393 for random play."""
    total = 0.0
    for a, many_a in DECK:
        for b, many_b in DECK:
            for dealer, many in DECK:
                total += many_a * many_b * many / 13**3 * value(NO_CARDS.add(a).add(b), dealer, best)[0]
    return total


class BlackjackEnv(GymnasiumEnv):
    """Blackjack with a known best action."""

    async def expert(self) -> Message:
        """Hits when that is worth more than sticking."""
        total, dealer_card, ace = cast("tuple[int, int, int]", self.observation)
        _, hit = value(Hand(total=int(total), usable_ace=bool(ace)), int(dealer_card), True)
        return calling("play", {"action": "hit" if hit else "stick"})


def blackjack(max_turns: int = 12) -> EnvSpec:
    """Hit or stick against a dealer; a fifth of the deals is held out.

    Args:
        max_turns: turns, at least 1; hands of more than nine cards practically do not happen.
    """
    if max_turns < 1:
        raise ConfigError(f"blackjack needs max_turns of at least 1, got {max_turns!r}")
    return EnvSpec(
        name="blackjack",
        make=partial(BlackjackEnv, _WORLD, limit=max_turns),
        task=_task,
        rubric=EnvReward(audit_metrics=("raw_return",)),
        description="Hit or stick against a dealer who draws below 17.",
        oracle_reward=(mean_value(True) + 1) / 2,
        null_reward=0.0,
        chance_reward=(mean_value(False) + 1) / 2,
        max_turns=max_turns,
        oracle_tasks=200,
    )


def _task(split: str, index: int) -> Task:
    """The first deal of this stream whose key belongs to the split."""
    attempt = 0
    while True:
        deal = stream(0, "blackjack", split, index, attempt) % 2**31
        key = digest(["blackjack", deal])
        if split_of(key) == ("heldout" if split == "heldout" else "train"):
            return Task(id=f"{split}-{index}", env="blackjack", payload={"deal": deal}, split=split, content_key=key)
        attempt += 1


def _seen(raw: RawWorld, observation: object) -> str:
    total, dealer_card, ace = cast("tuple[int, int, int]", observation)
    cards = ", ".join(_card(c) for c in cast("Any", raw).player)
    note = ", an ace counts as 11" if ace else ""
    return f"Your cards: {cards} (sum {total}{note}). The dealer shows {_card(dealer_card)}."


def _card(number: int) -> str:
    return "ace" if number == 1 else str(int(number))


def _ending(raw: RawWorld, reward: float) -> str:
    dealer = ", ".join(_card(c) for c in cast("Any", raw).dealer)
    return f"The dealer has {dealer}. " + ("You win." if reward > 0 else "You lose." if reward < 0 else "It is a draw.")


def _rules(raw: RawWorld) -> str:
    return (
        "Blackjack: get closer to 21 than the dealer without exceeding it. Hit to draw a card, stick to stop. "
        "Picture cards count 10, an ace 1 or 11. The dealer draws below 17."
    )


_WORLD = World(
    ids=("Blackjack-v1",),
    tool=("play", "action", "Draws a card (hit) or stops (stick)."),
    actions=("stick", "hit"),
    rules=_rules,
    describe=_seen,
    earned=lambda reward, terminated: (min(reward, 1.0) + 1) / 2 if terminated else 0.0,
    ending=_ending,
    state=("player", "dealer"),
    visible=("player", "dealer"),
)
