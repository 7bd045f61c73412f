"""What credit rules over a critic share: binding values to a rule, and walking an episode from its end to its beginning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from msgspec import Struct
from msgspec.structs import replace

from phronesis.credit.baselines.whitening import settled
from phronesis.credit.rule import Rerun, TokenValues, Values, members
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup

WHITEN_EPS = 1e-8
"""Added to the variance when whitening; convention of formula [whiten]."""


class Ahead(NamedTuple):
    """What follows a token."""

    value: float
    """Value of the next sampled token; 0 behind the last one."""
    advantage: float
    """Its advantage."""


OneTurn = Callable[[int, Sequence[float], float, Ahead], Sequence[float]]
"""From a turn's index, the values of its sampled tokens, its reward and what follows to one advantage per sampled token."""


def over_turns(episode: Episode, values: TokenValues, one_turn: OneTurn) -> TokenValues:
    """Applies `one_turn` from the last turn to the first; forced tokens get 0.

    Where the episode forks, the mean of the branches follows. A turn without a sampled token takes no time: what follows it
    and what it earned belong to the turn before it.
    """
    earned = episode.earned
    after: dict[int, list[int]] = defaultdict(list)
    for k, at in enumerate(episode.before):
        if at is not None:
            after[at].append(k)
    heads: list[Ahead] = [Ahead(0.0, 0.0)] * len(episode.turns)
    owed = [0.0] * len(episode.turns)
    rows: list[tuple[float, ...]] = [()] * len(episode.turns)
    for k in reversed(range(len(episode.turns))):
        sampled, branches = episode.turns[k].sampled, after[k]
        n = max(len(branches), 1)
        ahead = Ahead(sum(heads[j].value for j in branches) / n, sum(heads[j].advantage for j in branches) / n)
        reward = earned[k] + sum(owed[j] for j in branches) / n
        kept = [v for v, s in zip(values[k], sampled, strict=True) if s]
        if not kept:
            heads[k], owed[k], rows[k] = ahead, reward, (0.0,) * len(sampled)
            continue
        found = one_turn(k, kept, reward, ahead)
        heads[k] = Ahead(kept[0], found[0])
        each = iter(found)
        rows[k] = tuple(next(each) if s else 0.0 for s in sampled)
    return tuple(rows)


def add(episode: Episode, first: TokenValues, second: TokenValues) -> TokenValues:
    """The sum at sampled tokens, 0 at forced ones."""
    return tuple(
        tuple(a + b if s else 0.0 for a, b, s in zip(x, y, turn.sampled, strict=True))
        for x, y, turn in zip(first, second, episode.turns, strict=True)
    )


class Estimator(Protocol):
    """The part of a rule that knows how values become credit."""

    def advantages(self, episode: Episode, values: TokenValues) -> TokenValues:
        """Credit of one episode, 0 at forced tokens."""
        ...


@dataclass(frozen=True)
class Bound:
    """A rule with one step's values; a `CreditRule`. Episodes are not compared, so a lone one has credit too."""

    estimator: Estimator
    """How values become credit."""
    values: Values
    """What the critic expected."""
    whiten: bool = False
    """Centre and scale the credit over all sampled tokens of the step; see `phronesis.credit.baselines.whitening.whiten`."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used. `Credit.zero_variance` is set when all of it is 0."""
        kept, reasons = members(group, compared=False)
        rows: list[TokenValues | None] = [None] * len(group.episodes)
        for i in kept:
            episode = group.episodes[i]
            rows[i] = self.estimator.advantages(episode, self.values(episode))
        silent = not any(a for episode in rows if episode is not None for row in episode for a in row)
        return Credit(group=group.id, values=tuple(rows), reasons=reasons, zero_variance=silent)

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """The credit as it is, or whitened over the step."""
        if not self.whiten:
            return list(credits)
        whitened = settled(groups, credits, WHITEN_EPS)
        return [replace(new, reasons=old.reasons) for new, old in zip(whitened, credits, strict=True)]


class OverValues(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule over values before a critic's values are bound to it: it refuses, so that nothing trains without its critic."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Refuses: there are no values yet.

        Raises:
            ConfigError: always; the run has no critic.
        """
        raise needs_critic(str(self.__struct_config__.tag))


def needs_critic(rule: str) -> ConfigError:
    """Why a rule over values cannot work alone."""
    return ConfigError(
        f'credit "{rule}" compares with what a critic expects, and this run has none; add a [critic] section, or choose a rule '
        "that compares episodes"
    )


def check_lam(*lams: float) -> None:
    """Raises ConfigError unless all lie in [0, 1]."""
    for lam in lams:
        if not 0.0 <= lam <= 1.0:
            raise ConfigError(f"lambda {lam!r} must lie in [0, 1]")
