"""Groups under way in a checkpoint: what is kept of them, and how they come back.

The episodes of finished groups lie in the run's episode files, on the disk before the checkpoint is; groups that were still
played are started again, with the same task and seeds. So every group is learned from exactly once, whatever kills the run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from phronesis.records import EpisodeGroup, Task
from phronesis.rollout.play import Naming, Ticket
from phronesis.rollout.repair import with_refills
from phronesis.store.index import Where
from phronesis.store.run import Run
from phronesis.train.buffer import Buffer, Started
from phronesis.train.checkpoint import Manifest, UnderWay
from phronesis.train.config import RunConfig

log = logging.getLogger(__name__)


def tickets(config: RunConfig, number: int, task: Task) -> list[Ticket]:
    """The episodes of group `number`, with the names and seeds that the synchronous run gives them."""
    step, index = divmod(number, config.groups)
    return Naming(name="train", seed=config.seed, size=config.group_size, step=step).tickets(index, task)


def kept(buffer: Buffer) -> tuple[UnderWay, ...]:
    """What a checkpoint keeps of the groups under way."""
    return tuple(
        UnderWay(number=s.number, task=s.task, born=s.born, finished=s.finished) for _, s in sorted(buffer.held.items())
    )


def restore(buffer: Buffer, manifest: Manifest, config: RunConfig, run: Run) -> None:
    """Puts the groups of a checkpoint back.

    Args:
        buffer: empty.
        manifest: of the checkpoint.
        config: of the run.
        run: holds the episodes of those that had finished. Where one is damaged, its group is played again.
    """
    entries: list[Started] = []
    for entry in manifest.under_way:
        group = None if entry.finished is None else _group(tickets(config, entry.number, entry.task), run)
        if entry.finished is not None and group is None:
            log.warning("episodes of group %d cannot be read any more; it is played again", entry.number)
        finished = None if group is None else entry.finished
        entries.append(Started(number=entry.number, task=entry.task, born=entry.born, group=group, finished=finished))
    buffer.restore(entries, version=manifest.step, started=manifest.started)
    buffer.left_out = int(manifest.counters.get("left_out", 0))
    if entries:
        done = sum(e.group is not None for e in entries)
        log.info("%d groups were under way: %d finished, %d are played again", len(entries), done, len(entries) - done)


def _group(wanted: Sequence[Ticket], run: Run) -> EpisodeGroup | None:
    """A finished group from the run's files; None where an episode is missing."""
    first = wanted[0]
    found = {e.id: e for e in run.episodes(Where(kind="train", group=first.group))}
    if any(t.id not in found for t in wanted):
        return None
    episodes = with_refills([t.id for t in wanted], found)
    return EpisodeGroup(id=first.group or first.id, task=first.task, episodes=episodes)
