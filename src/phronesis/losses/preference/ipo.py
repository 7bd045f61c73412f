"""IPO: like DPO, with a finite target for the margin, so that pairs already won stop pulling."""

from __future__ import annotations

from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.preference.pairs import Pairs


def ipo_loss(chosen_P: Tensor, rejected_P: Tensor, *, beta: float) -> Tensor:
    """``(chosen - rejected - 1 / (2 beta))²`` per pair `[P]`, where each side is its sum of ``log pi - log ref``.

    beta .1, sides 2 and -1: (3 - 5)² = 4. Unlike DPO it pushes back once the margin exceeds 1 / (2 beta).

    Source: A General Theoretical Paradigm to Understand Learning from Human Preferences, arXiv 2310.12036 eq. 17;
    formula [ipo]. Not to be confused with the probability-difference mask of the same name.
    """
    return (chosen_P - rejected_P - 1.0 / (2.0 * beta)).square()


class IPOPreferenceLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ipo_pref"):
    """IPO over pairs.   See `ipo_loss`."""

    beta: float = 0.1
    """The margin aimed at is ``1 / (2 beta)`` nats; above 0."""

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ConfigError(f"ipo_pref beta {self.beta!r} must be above 0")

    def losses(self, pairs: Pairs) -> Tensor:
        """Applies `ipo_loss`; values are not read."""
        return ipo_loss(pairs.chosen_P, pairs.rejected_P, beta=self.beta)
