"""A batch: segments of a forest of token sequences, each token computed once, with what the loss needs of it."""

from __future__ import annotations

from msgspec import Struct


class Segment(Struct, frozen=True, kw_only=True, gc=False):
    """A run of consecutive tokens. Its sequence is its ancestors' tokens followed by its own.

    A prompt shared by a group is one segment with many children, so it is computed once.
    """

    parent: int | None
    """Index of the segment it extends (smaller than its own); None at a root."""
    ids: tuple[int, ...]
    """Token ids `[L]`, at least one."""
    mask: tuple[bool, ...]
    """`[L]`: True where the token was sampled by the policy and is trained."""
    logprobs: tuple[float, ...]
    """Nats `[L]`, behaviour log-probabilities; 0 where the mask is False."""
    advantages: tuple[float, ...]
    """`[L]`; 0 where the mask is False."""
    turns: tuple[int, ...]
    """`[L]`: turn of the episode each token belongs to, -1 where the mask is False."""
    trace: int = 0
    """Number of the root of the episode the segment descends from: episodes whose context was rebuilt have several."""
    episode: int
    """Index into `Batch.episodes`; -1 for a shared segment."""
    observed: tuple[bool, ...] = ()
    """`[L]`: True where the token came from the environment and is learned by cross-entropy; empty when none is."""
    temperature: float = 1.0
    """Temperature the behaviour log-probabilities refer to."""


class Batch(Struct, frozen=True, kw_only=True, gc=False):
    """Training rows of one step with their way back to episodes."""

    segments: tuple[Segment, ...]
    """Parents before children."""
    episodes: tuple[str, ...]
    """Episode ids that contribute, in order."""
    dropped: dict[str, int] = {}
    """How many episodes were left out, by reason."""
    sequence_tokens: tuple[int, ...]
    """Trained tokens of each of `episodes` in the whole step, also when this batch is only a part of it."""
    total_tokens: int
    """Trained tokens of the whole step: the denominator of token means. May count episodes that were left out."""
    total_sequences: int
    """Sequences of the whole step: the denominator of sequence means. May count episodes that were left out."""

    total_turns: int = 0
    """Turns of the whole step with a trained token: the denominator of turn means. May count episodes that were left out."""

    versions: tuple[tuple[int, ...], ...] = ()
    """Per episode of `episodes`, per turn, the oldest weights that sampled it; empty when not noted."""

    total_observed: int = 0
    """Observed tokens of the whole step: the denominator of the cross-entropy on them."""

    @property
    def tokens(self) -> int:
        """Tokens to compute."""
        return sum(len(s.ids) for s in self.segments)

    @property
    def trained_tokens(self) -> int:
        """Tokens with the mask set."""
        return sum(sum(s.mask) for s in self.segments)
