"""The asynchronous loop: groups are played all the time, and learned from as soon as a batch of them is whole.

Two things happen at once. Groups play, as many as the pacing of `phronesis.train.buffer` allows, on weights of the engine's
own; and the learner, in a thread, makes new weights from one batch after the other. A push copies them to the engine between
two of its steps: requests in flight go on with the new weights (every turn notes the versions it was sampled with), and
nothing is cut off or thrown away.

With staleness 0 a batch is exactly the groups started since the last one, with the seeds, tasks and order of
`phronesis.train.loop`, so that rewards and weights are those of the synchronous run to the bit.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from phronesis.rollout.play import check_played, play_group
from phronesis.rollout.repair import left_out
from phronesis.train import worlds
from phronesis.train.ages import age_metrics
from phronesis.train.buffer import Buffer, Started
from phronesis.train.dynamic import Sampled
from phronesis.train.faults import shut
from phronesis.train.loop import Loop, learn, measured
from phronesis.train.silence import Silence
from phronesis.train.under_way import tickets


async def train_async(loop: Loop, buffer: Buffer) -> None:
    """Trains from the buffer's version to the configured number of steps, playing meanwhile.

    Args:
        loop: as for `phronesis.train.loop.train`, with `aside`.
        buffer: groups under way, from a checkpoint or none.

    Raises:
        TrainingError: numbers the learner cannot trust.
        AllFaulted: every episode of a batch is a fault.
    """
    start, config = buffer.version, loop.config
    silence = Silence(loop.run, start, config.silent_steps)
    playing = Playing(loop, buffer)
    try:
        playing.feed()
        for step in range(start, config.steps):
            began = time.monotonic()
            batch = await loop.heartbeat(step, "batch").watch(playing.batch(), playing.why)
            waited = time.monotonic()
            played = [s.group for s in batch if s.group is not None]
            check_played(f"batch {step}", [e for group in played for e in group.episodes])
            spare = {group.id: group for group in played if left_out(group, config.retry.incomplete)}
            sampled = Sampled([group for group in played if group.id not in spare], list(spare.values()), 1)
            learned = await learn(loop, step, sampled)
            loop.push()
            buffer.learned()
            playing.feed()
            done = time.monotonic()
            metrics = measured(loop, sampled, learned) | age_metrics(sampled.groups, step) | playing.metrics()
            metrics |= {"time/play": done - began, "time/wait": waited - began}
            metrics |= {"time/learn": done - waited, "time/step": done - began}
            metrics["speed/play_tokens"] = metrics["tokens/sampled"] / (done - began)
            metrics["speed/learn_tokens"] = learned.update.computed_tokens / (done - waited)
            loop.run.metrics(step, metrics)
            numbers = " ".join(str(s.number) for s in batch)
            loop.run.event("batch", f"step {step} learned from {len(batch)} groups", step=step, groups=numbers)
            silence.look(step, sampled.groups, learned=bool(learned.update.steps or learned.warming))
            await loop.after_step(step + 1, metrics)
    finally:
        await playing.close()


class Playing:
    """The groups under way, each in a task of its own."""

    def __init__(self, loop: Loop, buffer: Buffer):
        """Starts again what a checkpoint says was being played."""
        self._loop, self._buffer = loop, buffer
        self._gates = worlds.gates(loop.config)
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._exhausted = False
        self._shut: list[str] = []
        for entry in buffer.held.values():
            if entry.group is None:
                self._begin(entry)

    def feed(self) -> None:
        """Starts as many groups as may start, and no more than the run needs."""
        buffer, config = self._buffer, self._loop.config
        missing = config.steps * config.groups - buffer.taken - len(buffer.held)
        wanted, self._shut = min(buffer.room, missing), []
        if wanted < 1 or self._exhausted:
            return
        drawn = self._loop.source.draw(wanted)
        self._shut = shut(self._loop.source) if len(drawn) < wanted else []
        self._exhausted = len(drawn) < wanted and not self._shut
        for task in drawn:
            self._begin(buffer.start(task))

    async def batch(self) -> Sequence[Started]:
        """The next batch, once it is whole; the last one may be smaller where no tasks are left.

        Raises:
            Exception: what storing an episode raised; play itself never raises.
        """
        while True:
            self._news.clear()
            for task in [t for t in self._tasks if t.done()]:
                self._tasks.discard(task)
                task.result()
            batch = self._buffer.take(partial=self._exhausted)
            self.feed()
            if batch is not None:
                return batch
            await self._progress()

    async def _progress(self) -> None:
        """Until a group has finished or, where all sources are left alone, one may be drawn from again.

        Raises:
            SourceDown: none of them may be for longer than the run is patient.
        """
        retries = self._loop.stage.retries
        if not self._shut or retries is None:
            await self._news.wait()
            return

        async def news() -> None:
            await self._news.wait()

        waits = [asyncio.create_task(work) for work in (news(), retries.breakers.any_of(self._shut))]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def why(self) -> str:
        """What the next batch waits for, in words."""
        buffer = self._buffer
        late = buffer.late
        oldest = f"; it waits for some that started early, the first of {len(late)} is group {late[0].number}" if late else ""
        ready = f"{buffer.waiting} of {buffer.batch} groups are finished, {buffer.playing} play{oldest}"
        return f"version {buffer.version}: {ready}; {self._loop.stage.waits()}"

    def metrics(self) -> dict[str, float]:
        """The state of the buffer, under metric keys."""
        buffer = self._buffer
        playing = Counter(entry.task.env for entry in buffer.held.values() if entry.group is None)
        return {
            "buffer/playing": float(buffer.playing),
            "buffer/waiting": float(buffer.waiting),
            "buffer/left_out": float(buffer.left_out),
        } | {f"source/{name}/playing": float(playing[name]) for name in self._loop.stage.spec.parts}

    async def close(self) -> None:
        """Ends every group that plays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, entry: Started) -> None:
        task = asyncio.create_task(self._play(entry), name=f"group {entry.number}")
        task.add_done_callback(lambda _: self._news.set())
        self._tasks.add(task)

    async def _play(self, entry: Started) -> None:
        wanted = tickets(self._loop.config, entry.number, entry.task)
        group = await play_group(self._loop.stage, wanted, self._gates.of(entry.task), self._loop.player)
        for episode in group.episodes:
            self._loop.run.append(episode)
        self._buffer.finish(entry.number, group)
