"""Workers for a run: joins a cluster, starts the staff, ends both."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from phronesis.cluster import ray
from phronesis.cluster.crew import ClusterCrew
from phronesis.cluster.plan import make_plan
from phronesis.cluster.scaling import Scaler
from phronesis.cluster.staff import Staff
from phronesis.train.crew import Crew, Hire, Job
from phronesis.train.group.learner import GroupLearner


def hiring(address: str = ray.LOCAL, scaler: Scaler | None = None) -> Hire:
    """Workers of a Ray cluster, for `phronesis.train.job.run`.

    Args:
        address: ``local`` starts a cluster of this machine, which ends with the run; ``auto`` finds one that runs on this
            machine; else ``HOST:PORT`` of one.
        scaler: decides how many workers there are while the run goes on; None leaves that to the settings.
    """
    return partial(_hired, address=address, scaler=scaler)


@asynccontextmanager
async def _hired(job: Job, *, address: str, scaler: Scaler | None) -> AsyncGenerator[Crew]:
    """Workers for a run.

    Raises:
        ConfigError: no cluster there, or the run's environment cannot be sent.
    """
    plan = make_plan(job)
    weights = sum(p.numel() * p.element_size() for p in job.policy.decoder.parameters())
    joined = ray.connect(address, job.cluster, weights)
    try:
        learner = job.policy.learner
        if job.cluster.learner is not None and isinstance(learner, GroupLearner):
            learner.lives(partial(ray.RayRanks, place=job.cluster.learner))
        async with ray.hosting(plan.recipe, job.cluster) as hosts:
            backend = ray.RayBackend(plan, job.cluster, hosts)
            staff = Staff(job.cluster, backend, partial(job.writer.event, "worker"), scaler)
            crew = ClusterCrew(job.policy, backend, staff)
            crew.open()
            try:
                yield crew
            finally:
                await staff.close()
    finally:
        if joined:
            ray.disconnect()
