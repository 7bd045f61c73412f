"""A rollout worker, in a process of its own: an engine over its own copy of the weights, and episodes played on it.

Its methods are called from elsewhere, many at once, in one event loop. Bits are those of one process: an episode is a function
of its task, its seed and the weights, whoever plays it.
"""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phronesis.cluster.hosting import Hosts
from phronesis.cluster.orders import decode_order, decode_played, encode_played
from phronesis.cluster.plan import Plan, Post, take_post
from phronesis.cluster.remote import Facts, Pulse
from phronesis.engine.weights.bucket import load_into, unpack
from phronesis.records import EpisodeGroup
from phronesis.rollout.play import play, score


class RolloutWorker:
    """Plays what it is sent with the weights it was given last."""

    def __init__(self, plan: Plan, hosts: Hosts | None = None):
        """Nothing is built yet.

        Args:
            plan: of the run.
            hosts: where environments live; None plays them in this process.
        """
        self._plan, self._hosts = plan, hosts
        self._built: Post | None = None
        self._version = -1
        self._news = asyncio.Event()
        self._busy = asyncio.Semaphore(plan.slots)

    async def ready(self) -> Facts:
        """Builds everything but the weights, the first time it is asked.

        Raises:
            ConfigError: this node lacks what the run needs.
        """
        if self._built is None:
            post = take_post(self._plan, Path(tempfile.gettempdir()))
            if self._hosts is not None:
                post = replace(post, stage=replace(post.stage, spec=self._hosts.hosted(post.stage.spec)))
            self._built = post
        return Facts(pid=os.getpid(), node=platform.node(), arithmetic=self._post.engine.arithmetic)

    async def take(self, bucket: NDArray[np.uint8], version: int) -> int:
        """Copies packed weights into the engine's own, between two of its steps; requests in flight go on with them.

        Args:
            bucket: as `phronesis.engine.weights` packs it; it is only read.
            version: weight updates so far. One that is not newer than what is here changes nothing.

        Returns:
            The version that is here now.

        Raises:
            WeightsError: a damaged bucket, or one of another model.
        """
        if version > self._version:
            load_into(self._post.model, unpack(bucket.data))
            self._version = self._post.engine.advance(version)
            news, self._news = self._news, asyncio.Event()
            news.set()
        return self._version

    async def play(self, order: bytes) -> bytes:
        """Plays one episode. It is not scored yet."""
        wanted = decode_order(order)
        while self._version < wanted.version:
            await self._news.wait()
        stage = replace(self._post.stage, limits=wanted.limits, sampling=wanted.sampling)
        async with self._busy:
            episode = await play(stage, wanted.ticket)
        group = EpisodeGroup(id=wanted.ticket.group or wanted.ticket.id, task=wanted.ticket.task, episodes=(episode,))
        return encode_played(group, pictures=True)

    async def judge(self, group: bytes, seconds: float) -> bytes:
        """Scores a group.

        Args:
            group: its episodes.
            seconds: the rubric may take so long.
        """
        scored = await score(self._post.stage.spec, decode_played(group), seconds)
        return encode_played(scored, pictures=False)

    async def pulse(self) -> Pulse:
        """How it is."""
        return Pulse(version=self._version, waiting=dict(self._post.stage.waiting))

    async def close(self) -> None:
        """Ends what it started."""
        if self._built is not None and self._built.fleet is not None:
            await self._built.fleet.close()

    @property
    def _post(self) -> Post:
        assert self._built is not None, "ask whether it is ready first"
        return self._built
