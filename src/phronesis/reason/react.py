"""The default agent: think and act in one stream until the environment says the episode is over."""

from __future__ import annotations

from phronesis.agent import Session


class ReAct:
    """Sample a turn, send it to the environment, repeat.   Source: arXiv 2210.03629."""

    async def run(self, session: Session) -> None:
        """Plays one episode."""
        while not session.done:
            turn = await session.sample()
            await session.act(turn)
