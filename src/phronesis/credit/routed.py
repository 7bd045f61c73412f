"""Another credit rule for each source of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from phronesis.credit.rule import CreditRule, Remembers, Rerun, Settles
from phronesis.records import Credit, EpisodeGroup


class RoutedCredit:
    """Asks the rule of a group's environment, and one rule for all others.

    A rule that settles over the groups of a step (`Settles`) sees those it gave credit to, and no others; what rules
    remember is kept apart.
    """

    def __init__(self, rest: CreditRule, rules: Mapping[str, CreditRule]):
        """Puts rules together.

        Args:
            rest: for environments without a rule of their own.
            rules: by `Task.env`.
        """
        self.rest, self.rules = rest, dict(rules)

    def of(self, group: EpisodeGroup) -> CreditRule:
        """The rule of a group."""
        return self.rules.get(group.task.env, self.rest)

    def bound(self, bind: Callable[[CreditRule], CreditRule]) -> RoutedCredit:
        """The same with every rule replaced by what `bind` makes of it, e.g. with its teacher at hand."""
        return RoutedCredit(bind(self.rest), {name: bind(rule) for name, rule in self.rules.items()})

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit by the group's own rule."""
        return await self.of(group).assign(group, rerun)

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """The step's final credit: every rule settles its own groups."""
        found = list(credits)
        for rule in (self.rest, *self.rules.values()):
            if isinstance(rule, Settles):
                mine = [i for i, group in enumerate(groups) if self.of(group) is rule]
                settled = rule.settle([groups[i] for i in mine], [credits[i] for i in mine]) if mine else []
                for i, credit in zip(mine, settled, strict=True):
                    found[i] = credit
        return found

    def state(self) -> Mapping[str, float]:
        """What all rules remember."""
        return {f"{name}/{k}": v for name, rule in self._remembering().items() for k, v in rule.state().items()}

    def restore(self, state: Mapping[str, float]) -> None:
        """Gives every rule what it remembered."""
        for name, rule in self._remembering().items():
            rule.restore({k.removeprefix(f"{name}/"): v for k, v in state.items() if k.startswith(f"{name}/")})

    def _remembering(self) -> dict[str, Remembers]:
        named = {"": self.rest, **self.rules}
        return {name: rule for name, rule in named.items() if isinstance(rule, Remembers)}
