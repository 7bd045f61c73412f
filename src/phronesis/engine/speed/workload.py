"""What is measured: a model of a certain size and a crowd of sequences that it continues."""

from __future__ import annotations

from msgspec import Struct

from phronesis.errors import ConfigError
from phronesis.models.tiny import TinyModel

VOCABULARY = 1024
"""Ids of every measured model."""
OBSERVED = 24
"""Ids an environment answers with between two turns."""
SIZES = {
    "0.3M": TinyModel(width=64, layers=4, heads=2, kv_heads=2, head_dim=32, mlp_width=192, max_positions=4096),
    "1M": TinyModel(width=128, layers=4, heads=4, kv_heads=4, head_dim=32, mlp_width=384, max_positions=4096),
    "3M": TinyModel(width=192, layers=6, heads=6, kv_heads=6, head_dim=32, mlp_width=576, max_positions=4096),
    "10M": TinyModel(width=384, layers=6, heads=6, kv_heads=6, head_dim=64, mlp_width=1152, max_positions=4096),
    "30M": TinyModel(width=512, layers=8, heads=8, kv_heads=8, head_dim=64, mlp_width=1792, max_positions=4096),
}
"""Name -> model; the names round the number of parameters."""


class Work(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing every side does."""

    size: str
    """A name of `SIZES`."""
    batch: int = 64
    """Sequences at once."""
    prompt: int = 64
    """Ids of each prompt; all prompts differ from their first id on."""
    new: int = 64
    """Ids sampled in each turn, at temperature 1 from the whole vocabulary."""
    turns: int = 1
    """Turns of an episode; between two of them `OBSERVED` ids come in."""
    shared: int = 0
    """Ids all sequences begin with, of the prompt."""

    @property
    def tokens(self) -> int:
        """Ids sampled in all."""
        return self.batch * self.new * self.turns

    @property
    def longest(self) -> int:
        """Ids of one sequence when it ends."""
        return self.prompt + self.turns * self.new + (self.turns - 1) * OBSERVED


def check(work: Work) -> None:
    """Refuses work that cannot be done.

    Raises:
        ConfigError: an unknown size, a count below 1, more shared ids than the prompt has, or sequences too long.
    """
    most = 4096
    if work.size not in SIZES:
        raise ConfigError(f"unknown size {work.size!r}; known: {', '.join(SIZES)}")
    if min(work.batch, work.prompt, work.new, work.turns) < 1 or not 0 <= work.shared < work.prompt:
        raise ConfigError(f"counts must be at least 1 and fewer ids shared than a prompt has, got {work!r}")
    if work.longest > most:
        raise ConfigError(f"sequences of {work.longest} ids do not fit the {most} of the measured models: fewer turns or ids")


def prompts(work: Work) -> list[list[int]]:
    """The prompt of every sequence.

    >>> prompts(Work(size="1M", batch=2, prompt=4, shared=2))
    [[1, 2, 0, 3], [1, 2, 7, 10]]
    """
    start = [(1 + t) % VOCABULARY for t in range(work.shared)]
    rest = work.prompt - work.shared
    return [start + [(7 * i + 3 * t) % VOCABULARY for t in range(rest)] for i in range(work.batch)]


def observation(sequence: int, turn: int) -> list[int]:
    """What the environment answers after a turn."""
    return [(11 * sequence + 5 * turn + t) % VOCABULARY for t in range(OBSERVED)]
