"""Play a stored episode again from its task, seed and policy, and say where the two part.

With the weights that played it, every token and log-probability must come out bit for bit. Without them, the recorded
completions are put in the policy's mouth: this still proves that the environment is a function of its seed and that the
prompts are what the policy was shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace as replace_data

from msgspec import Struct

from phronesis.agent import Session
from phronesis.errors import PolicyFault
from phronesis.policy import Completion, Policy, SamplingParams, prompt_crc
from phronesis.records import Episode, EpisodeGroup, Reply, Turn
from phronesis.rollout.play import Stage, Ticket, play, score


class Difference(Struct, frozen=True, kw_only=True):
    """One place where the new episode differs from the stored one."""

    turn: int | None
    """Index of the turn; None for the episode as a whole."""
    what: str
    """``context``, ``completion``, ``logprobs``, ``reply``, ``stop``, ``reward``, …"""
    recorded: str
    """What was stored, from the first difference on."""
    again: str
    """What came now."""


class Replayed(Struct, frozen=True, kw_only=True):
    """An episode played again."""

    episode: Episode
    """What came now."""
    differences: tuple[Difference, ...]
    """Where it differs from what was stored, in order; empty when it is the same bit for bit."""
    tokens: int
    """Sampled tokens of the stored episode."""
    max_logprob_difference: float | None
    """Nats: largest |difference| of one token's log-probability over turns of equal completions; None without any."""

    @property
    def exact(self) -> bool:
        """True when nothing differs."""
        return not self.differences


class RecordedPolicy:
    """Says what a stored episode says, turn by turn, whatever it is asked."""

    def __init__(self, episode: Episode):
        self._turns = iter(episode.turns)

    async def sample(self, prompt: Sequence[int], params: SamplingParams) -> Completion:
        """The next stored completion.

        Raises:
            PolicyFault: the stored episode has no further turn.
        """
        turn = next(self._turns, None)
        if turn is None:
            raise PolicyFault("the stored episode ended here, the new one goes on")
        return Completion(
            ids=turn.completion,
            sampled=turn.sampled,
            logprobs=turn.logprobs,
            entropies=turn.entropies,
            finish=turn.finish,
            version=turn.version,
            prompt_crc=prompt_crc(prompt),
            cached_tokens=turn.cached_tokens,
        )


class AsPlayed:
    """Samples each turn with the weights that sampled it, where these are at hand; other turns say what they said.

    For episodes that were played while the policy learned: their turns may be of several versions, and a turn that new weights
    reached in its middle is of none alone.
    """

    def __init__(self, episode: Episode, policies: Mapping[int, Policy]):
        """Policies by the version of their weights."""
        self._turns, self._recorded, self._policies = iter(episode.turns), RecordedPolicy(episode), policies

    async def sample(self, prompt: Sequence[int], params: SamplingParams) -> Completion:
        """What the next turn says.

        Raises:
            PolicyFault: the stored episode has no further turn.
        """
        said, turn = await self._recorded.sample(prompt, params), next(self._turns)
        policy = self._policies.get(turn.version[0]) if turn.version[0] == turn.version[1] else None
        return said if policy is None else await policy.sample(prompt, params)


class SameForced:
    """Plays turn after turn as the stored episode did: the same temperature, the same forced beginning."""

    def __init__(self, episode: Episode):
        self._turns = episode.turns

    async def run(self, session: Session) -> None:
        """Plays one episode."""
        at = 0
        while not session.done:
            stored = self._turns[at] if at < len(self._turns) else None
            forced = forced_beginning(stored) if stored is not None else ()
            await session.act(
                await session.sample(forced=forced, temperature=stored.temperature if stored is not None else None)
            )
            at += 1


def forced_beginning(turn: Turn) -> tuple[int, ...]:
    """The ids a completion was made to begin with.

    >>> # completion (5, 6, 7) with sampled (False, False, True) -> (5, 6)
    """
    free = next((t for t, sampled in enumerate(turn.sampled) if sampled), len(turn.sampled))
    return turn.completion[:free]


async def replay(stage: Stage, episode: Episode, policy: Policy | None) -> Replayed:
    """Plays a stored episode again.

    Args:
        stage: the environment, chat format and limits it was played with. Its agent is replaced by one that repeats forced
            beginnings; its policy by `policy`.
        episode: the stored episode; its turns must form one line, as those of the default agent do.
        policy: holds the weights that played it; None puts the recorded completions in its mouth.
    """
    chosen = replace_data(stage, agent=SameForced(episode), policy=RecordedPolicy(episode) if policy is None else policy)
    ticket = Ticket(id=episode.id, task=episode.task, seed=episode.seed, group=episode.group, step=episode.step)
    played = await play(chosen, ticket)
    scored = await score(stage.spec, EpisodeGroup(id=episode.group or episode.id, task=episode.task, episodes=(played,)))
    again = scored.episodes[0]
    return Replayed(
        episode=again,
        differences=tuple(differences(episode, again)),
        tokens=episode.sampled_tokens,
        max_logprob_difference=_max_difference(episode, again),
    )


def differences(recorded: Episode, again: Episode) -> list[Difference]:
    """Where two episodes part: turn by turn until the first turn that differs, then the ends."""
    found: list[Difference] = []
    for k, (old, new) in enumerate(zip(recorded.turns, again.turns, strict=False)):
        found += _turn_differences(k, old, new)
        if found:
            break  # what follows differs because this did
    pairs: list[tuple[str, object, object]] = [
        ("turns", len(recorded.turns), len(again.turns)),
        ("stop", recorded.stop.value, again.stop.value),
        ("reward", _value(recorded), _value(again)),
    ]
    found += [Difference(turn=None, what=w, recorded=repr(a), again=repr(b)) for w, a, b in pairs if a != b]
    return found


def _turn_differences(k: int, old: Turn, new: Turn) -> list[Difference]:
    columns: list[tuple[str, Sequence[object], Sequence[object]]] = [
        ("context", old.context, new.context),
        ("completion", old.completion, new.completion),
        ("sampled", old.sampled, new.sampled),
        ("logprobs", old.logprobs, new.logprobs),
    ]
    found = [_first(k, what, a, b) for what, a, b in columns if a != b]
    words: list[tuple[str, object, object]] = [
        ("finish", old.finish.value, new.finish.value),
        ("reply", _shown(old.reply), _shown(new.reply)),
    ]
    return found + [Difference(turn=k, what=w, recorded=str(a), again=str(b)) for w, a, b in words if a != b]


def _first(k: int, what: str, old: Sequence[object], new: Sequence[object]) -> Difference:
    """The first place where two columns differ, with a few entries after it."""
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    return Difference(turn=k, what=f"{what}[{at}]", recorded=_entries(old, at), again=_entries(new, at))


def _entries(column: Sequence[object], at: int) -> str:
    return ", ".join(map(str, column[at : at + 5])) + (", …" if len(column) > at + 5 else "") if at < len(column) else "(ended)"


def _shown(reply: Reply | None) -> str:
    """What of a reply must repeat: everything but its metrics, which may hold times."""
    if reply is None:
        return "none"
    said = " | ".join(m.text for m in reply.messages)
    ends = f"reward={reply.reward} done={reply.done} stop={reply.stop}"
    return f"{said!r} {ends} errors={list(reply.errors)} state={reply.state_key}"


def _value(episode: Episode) -> float | None:
    return episode.reward.value if episode.reward is not None else None


def _max_difference(recorded: Episode, again: Episode) -> float | None:
    gaps = [
        abs(a - b)
        for old, new in zip(recorded.turns, again.turns, strict=False)
        if old.completion == new.completion
        for a, b in zip(old.logprobs, new.logprobs, strict=False)
    ]
    return max(gaps) if gaps else None
