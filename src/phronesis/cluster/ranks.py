"""A rank of the learner group (`phronesis.train.group`) as an object that is called from elsewhere."""

from __future__ import annotations

from phronesis.train.group.rank import Rank, answers


class RankWorker:
    """Holds one rank; one call at a time."""

    def __init__(self) -> None:
        self._asked = answers(Rank())

    def ask(self, name: str, body: bytes) -> bytes:
        """Answers one question of `phronesis.train.group.processes.Ranks.ask`.

        Raises:
            PhronesisError: what the rank raised.
        """
        return self._asked[name](body) or b""
