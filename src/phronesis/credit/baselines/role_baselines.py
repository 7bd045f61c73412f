"""RAE: one running baseline per role, for self-play where no two episodes share a task."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import ClassVar, NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.cells import cell_of
from phronesis.credit.baselines.trajectory import tile
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.errors import ConfigError
from phronesis.records import Credit, EpisodeGroup


class RAE(NamedTuple):
    """Advantages and what the baselines became."""

    advantages: list[float]
    """One per reward."""
    baselines: dict[Hashable, float]
    """By agent, after the last reward."""


def rae(
    agents: Sequence[Hashable],
    rewards: Sequence[float],
    *,
    decay: float = 0.95,
    start: float = 0.0,
    baselines: Mapping[Hashable, float] | None = None,
) -> RAE:
    """Each reward minus its agent's baseline, which then moves towards it: ``A = r - b``, ``b <- decay b + (1 - decay) r``.

    Unbiased, since the baseline is the one before its update; slow to follow a policy that improves.

    Source: role-conditioned advantage estimation of SPIRAL, arXiv 2506.24119; formula [rae]. Rewards 1, 1, 0 of one agent:
    advantages [1, .95, -.0975], baseline .092625.

    Args:
        agents: who earned each reward, in the order of time.
        rewards: one per agent named.
        decay: weight of the old baseline, in [0, 1].
        start: the baseline of an agent not met before.
        baselines: those of agents met before.
    """
    found = dict(baselines or {})
    advantages: list[float] = []
    for agent, reward in zip(agents, rewards, strict=True):
        before = found.get(agent, start)
        advantages.append(reward - before)
        found[agent] = decay * before + (1 - decay) * reward
    return RAE(advantages, found)


class RoleBaselineCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="rae"):
    """Every sampled token gets its episode's reward minus the running baseline of its role.   See `rae`.

    Settings only: `begin` makes the rule, whose baselines last for the run and are kept in checkpoints.
    """

    keys: tuple[str, ...] = ("role",)
    """Payload keys of the task whose values together name the role; empty keeps one baseline for all."""
    decay: float = 0.95
    """Weight of the old baseline, in [0, 1)."""
    start: float = 0.0
    """A role's first baseline, in the unit of the reward."""
    needs_siblings: ClassVar[bool] = False
    """A lone episode has credit too."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ConfigError(f"rae decay {self.decay!r} must lie in [0, 1)")

    def begin(self) -> RoleBaselines:
        """The rule, with nothing learned yet."""
        return RoleBaselines(self)


class RoleBaselines:
    """The rule of a `RoleBaselineCredit`. Groups count in the order they are assigned."""

    def __init__(self, config: RoleBaselineCredit) -> None:
        self.config = config
        self._baselines: dict[Hashable, float] = {}

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group, and the baselines move on; `rerun` is not used."""
        role = "/".join(str(name) for name in cell_of(group.task, self.config.keys))
        kept = members(group, compared=False).kept
        rewards = [value_of(group.episodes[e]) for e in kept]
        found = rae([role] * len(rewards), rewards, decay=self.config.decay, start=self.config.start, baselines=self._baselines)
        self._baselines = found.baselines
        return tile(group, dict(zip(kept, found.advantages, strict=True)))

    def state(self) -> dict[str, float]:
        """The baselines by role, for a checkpoint."""
        return {str(role): value for role, value in self._baselines.items()}

    def restore(self, state: Mapping[str, float]) -> None:
        """Continues from a `state`."""
        self._baselines = {role: float(value) for role, value in state.items()}
