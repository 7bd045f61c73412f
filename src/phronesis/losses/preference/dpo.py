"""DPO: of two answers to one prompt, make the chosen one relatively more likely than the rejected one."""

from __future__ import annotations

from msgspec import Struct
from torch import Tensor
from torch.nn import functional as F

from phronesis.errors import ConfigError
from phronesis.losses.preference.pairs import Pairs


def dpo_loss(chosen_P: Tensor, rejected_P: Tensor, *, beta: float) -> Tensor:
    """``-log sigma(beta (chosen - rejected))`` per pair `[P]`, where each side is its sum of ``log pi - log ref``.

    beta .1, sides 2 and -1: .554355. At no movement (0 and 0) it is log 2 and pulls with beta / 2 on either side.

    A prefix both sides share adds the same to both and cancels. Step-DPO is this loss with the sides cut to their first
    diverging step (`phronesis.data.preferences.first_step`).

    Source: DPO, arXiv 2305.18290 eq. 7; formula [dpo]; Step-DPO, arXiv 2406.18629; formula [step-dpo].
    """
    return -F.logsigmoid(beta * (chosen_P - rejected_P))


class DPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dpo"):
    """DPO.   See `dpo_loss`."""

    beta: float = 0.1
    """Strength of the pull towards the reference, above 0."""

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ConfigError(f"dpo beta {self.beta!r} must be above 0")

    def losses(self, pairs: Pairs) -> Tensor:
        """Applies `dpo_loss`; values are not read."""
        return dpo_loss(pairs.chosen_P, pairs.rejected_P, beta=self.beta)
