"""Asks the policy beside finished episodes: how likely it finds an answer there, or its own words once it knows how it ended.

The rule this module keeps: answers and hints are scored in prompts of their own. No prompt of an episode ever holds them.
"""

from __future__ import annotations

from collections.abc import Sequence

from phronesis.errors import ConfigError, PolicyFault
from phronesis.policy import Scores
from phronesis.records import Episode, Message, Turn, say
from phronesis.rollout.deadlines import within
from phronesis.rollout.hints import with_hint
from phronesis.rollout.play import Stage


class Asking:
    """Implements `phronesis.credit.side.Asks` on a stage."""

    stage: Stage
    """What the episodes were played on."""

    def said(self, turn: Turn, tokens: int) -> str:
        """The thought, and behind it the text, in the first tokens of a turn's completion."""
        message = self.stage.chat.parse(turn.completion[:tokens]).message
        return (message.thought or "") + message.text

    async def answer(self, episode: Episode, turn: int, text: str) -> tuple[float, ...]:
        """Nats of the tokens of `text`, had the policy said it instead of turn `turn`; the stop id is not counted.

        Raises:
            ConfigError: no such turn, a policy that cannot score, or a text without tokens.
            PolicyFault: it does not fit the context.
        """
        if not 0 <= turn < len(episode.turns):
            raise ConfigError(f"episode {episode.id!r} has {len(episode.turns)} turns, so none of index {turn!r}")
        said = [i for i in self.stage.chat.render(say("assistant", text)) if i not in self.stage.chat.stop_ids]
        if not said:
            raise ConfigError(f"the answer {text!r} of task {episode.task.id!r} has no tokens")
        return await self._score(episode.prompt(turn), said, 1.0)

    async def hindsight(self, episode: Episode, turn: int, hint: str) -> tuple[float, ...]:
        """Nats `[T]` of the turn's tokens, had the opening ended with `hint`, at the temperature they were sampled with.

        The prompt is rendered anew from messages, so the ids of past turns may differ from those sampled.

        Raises:
            ConfigError: no such turn, or a policy that cannot score.
            PolicyFault: it does not fit the context.
        """
        if not 0 <= turn < len(episode.turns):
            raise ConfigError(f"episode {episode.id!r} has {len(episode.turns)} turns, so none of index {turn!r}")
        said = episode.turns[turn]
        if not said.completion:
            return ()
        prompt = self.stage.chat.open(hinted(episode, turn, hint), episode.tools)
        return await self._score(prompt, said.completion, said.temperature)

    async def _score(self, prompt: Sequence[int], said: Sequence[int], temperature: float) -> tuple[float, ...]:
        policy = self.stage.policy
        if not isinstance(policy, Scores):
            raise ConfigError(f"{type(policy).__name__} cannot score given ids; name a 'judge' for the credit rule instead")
        scoring = policy.score((*prompt, *said), temperature)
        patience = self.stage.limits.policy_seconds
        found = await within(patience, scoring, PolicyFault, "the policy's score (limits.policy_seconds)")
        return found[-len(said) :]


def hinted(episode: Episode, turn: int, hint: str) -> list[Message]:
    """The conversation up to turn `turn`, with `hint` added to the last message of the opening."""
    messages = with_hint(episode.opening, hint)
    for k in episode.line(turn)[:-1]:
        past = episode.turns[k]
        messages.append(past.action or Message(role="assistant"))
        messages += () if past.reply is None else past.reply.messages
    return messages
