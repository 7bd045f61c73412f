"""Steps from which nothing could be learned: counted, and said aloud when there are too many in a row."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from phronesis.records import EpisodeGroup
from phronesis.store.run import RunWriter

log = logging.getLogger(__name__)


class Silence:
    """Counts steps without any signal, and says so when there were too many."""

    def __init__(self, run: RunWriter, start: int, every: int):
        """Goes on where a resumed run stood.

        Args:
            run: told about it.
            start: the step about to be made.
            every: so many steps in a row are worth an alarm.
        """
        self._run, self._every, self.steps = run, every, 0
        if start:
            quiet = {s.step for s in run.steps() if s.values.get("update/tokens") == 0.0 and not s.values.get("critic/warmup")}
            self.steps = next(n for n in range(start + 1) if start - 1 - n not in quiet)

    def look(self, step: int, groups: Sequence[EpisodeGroup], *, learned: bool) -> None:
        """Takes note of a step."""
        self.steps = 0 if learned else self.steps + 1
        if self.steps and self.steps % self._every == 0:
            said = alarm(self.steps, groups)
            log.warning("%s", said)
            self._run.event("alarm", said, step=step, silent_steps=self.steps)


def alarm(silent: int, groups: Sequence[EpisodeGroup]) -> str:
    """What to say when nothing has been learned for `silent` steps: what the last step's episodes looked like, and what
    could help."""
    rewards = sorted({e.reward.value for g in groups for e in g.valid if e.reward and e.reward.value is not None})
    seen = f"every reward was {rewards[0]!r}" if len(rewards) == 1 else f"rewards seen: {rewards[:5]}"
    stops = Counter(e.stop.value for g in groups for e in g.episodes).most_common()
    return (
        f"no signal for {silent} steps: no group had episodes of different reward ({seen}; episodes ended by "
        f"{', '.join(f'{stop} {n}' for stop, n in stops)}). Make tasks easier or harder, raise the temperature or group_size, "
        "raise the limit that ends episodes, or prime the policy first"
    )
