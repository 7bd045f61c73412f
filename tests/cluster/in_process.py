"""Workers of a crew as objects of this process: what `phronesis.cluster.ray` does, without Ray, and with deaths on demand."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import asynccontextmanager

from phronesis.cluster.crew import ClusterCrew
from phronesis.cluster.plan import make_plan
from phronesis.cluster.remote import WorkerGone
from phronesis.cluster.staff import Staff
from phronesis.cluster.worker import RolloutWorker


class InProcess:
    """One worker; `kill` makes everything it was asked fail."""

    def __init__(self, backend, index):
        self.backend, self.index, self.dead = backend, index, False
        self.worker = RolloutWorker(pickle.loads(backend.plan))
        self.asked = {}
        self.plays = 0

    async def _ask(self, coroutine):
        if self.dead:
            coroutine.close()
            raise WorkerGone("it was killed")
        task, death = asyncio.ensure_future(coroutine), asyncio.get_running_loop().create_future()
        self.asked[task] = death
        try:
            await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
            if self.dead:
                raise WorkerGone("it was killed")
            return task.result()
        finally:
            task.cancel()
            del self.asked[task]

    async def ready(self):
        if self.index in self.backend.stillborn:
            raise WorkerGone("it never lived")
        return await self._ask(self.worker.ready())

    async def take(self, weights, version):
        await self.backend.before_take(self, version)
        return await self._ask(self.worker.take(weights, version))

    async def play(self, order):
        self.plays += 1
        self.backend.before_play(self)
        return await self._ask(self.worker.play(order))

    async def judge(self, group, seconds):
        return await self._ask(self.worker.judge(group, seconds))

    async def pulse(self):
        await self.backend.before_pulse(self)
        return await self._ask(self.worker.pulse())

    def kill(self):
        self.dead = True
        for death in self.asked.values():
            if not death.done():
                death.set_result(None)


class InProcessBackend:
    """Where they come from; tests replace `before_…` to make things happen."""

    def __init__(self, plan):
        self.plan = pickle.dumps(plan)
        self.started, self.stillborn, self.asked_room = [], set(), []

    def start(self, index):
        self.started.append(InProcess(self, index))
        return self.started[-1]

    def put(self, bucket):
        return bucket

    def ask_room(self, workers):
        self.asked_room.append(workers)

    def room(self):
        return "all the room there is"

    async def before_take(self, worker, version):
        pass

    async def before_pulse(self, worker):
        pass

    def before_play(self, worker):
        pass


def hiring(prepare=lambda backend, staff: None, scaler=None):
    """Hires workers of this process; `prepare` may arrange what happens to them."""

    @asynccontextmanager
    async def hire(job):
        def note(message, **fields):
            job.writer.event("worker", message, **fields)

        backend = InProcessBackend(make_plan(job))
        staff = Staff(job.cluster, backend, note, scaler)
        crew = ClusterCrew(job.policy, backend, staff)
        prepare(backend, staff)
        crew.open()
        try:
            yield crew
        finally:
            await staff.close()

    return hire
