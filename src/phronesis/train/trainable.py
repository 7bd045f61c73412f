"""Which episodes can be learned from at all: those whose turns hold the ids that were sampled."""

from __future__ import annotations

from collections.abc import Sequence

from phronesis.errors import Untrainable
from phronesis.records import EpisodeGroup


def check_trainable(groups: Sequence[EpisodeGroup]) -> None:
    """Refuses episodes with a turn of messages: it has neither ids nor log-probabilities, so no gradient means anything.

    Raises:
        Untrainable: there is one; names it and says what to do.
    """
    for group in groups:
        for episode in group.episodes:
            k = next((k for k, turn in enumerate(episode.turns) if turn.usage is not None), None)
            if k is not None:
                raise Untrainable(
                    f"turn {k} of episode {episode.id!r} was said by a policy that takes messages only: it has no ids and no "
                    "log-probabilities to learn from. Train a policy of ids (the embedded engine, vLLM, or the gateway in "
                    "front of one), or learn from what was said as supervised traces"
                )
