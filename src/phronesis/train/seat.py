"""The policy of a run and everything that speaks its language, sharing one set of weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from msgspec.structs import replace
from transformers import PreTrainedTokenizerBase

from phronesis.chat.detect import format_for
from phronesis.chat.format import ChatFormat
from phronesis.engine.embedded import EmbeddedEngine, EngineConfig
from phronesis.engine.vllm.engine import VLLMEngine
from phronesis.engine.vllm.fleet import Fleet
from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.models.causal import LanguageModel
from phronesis.models.decoder import Decoder
from phronesis.models.lora import Adapters
from phronesis.models.opening import save_model
from phronesis.models.tokenizer import decode, save_tokenizer
from phronesis.reason.react import ReAct
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.play import Stage
from phronesis.seeding import stream
from phronesis.train.config import RunConfig
from phronesis.train.group.learner import GroupLearner
from phronesis.train.learner import Learner
from phronesis.train.learning import Learns
from phronesis.train.lessons.pairs import PairsLesson
from phronesis.train.twins import AnyCritic, make_critic


@dataclass(frozen=True)
class Seat:
    """Who plays: the learner and the engine hold the same decoder, so weights are shared, not copied, except where both work
    at the same time."""

    tokenizer: PreTrainedTokenizerBase
    """Text to ids."""
    chat: ChatFormat
    """Messages to ids."""
    decoder: LanguageModel
    """The weights."""
    learner: Learns
    """Changes them; here, or in a group of processes that gives them back."""
    engine: EmbeddedEngine | VLLMEngine
    """Samples from them; where it is vLLM, from the copies its servers were given last."""
    critic: AnyCritic | None = None
    """Expects returns; None where the run has no critic."""
    sampling: LanguageModel | None = None
    """The engine's own copy of the weights, where it samples while the learner changes them; None where they share."""

    def stage(self, spec: EnvSpec, config: RunConfig, sampling: Sampling) -> Stage:
        """A stage on which this policy plays."""
        own = {name: self._fitted(s.limits) for name, s in config.sources.items() if s.limits is not None}
        return Stage(
            spec=spec, policy=self.engine, chat=self.chat, agent=ReAct(), limits=self._fitted(config.limits), own_limits=own,
            sampling=sampling, vocabulary=self.decoder.vocab_size,
        )  # fmt: skip

    def _fitted(self, limits: Limits) -> Limits:
        """Limits with the context the policy has, where they name none."""
        return limits if limits.context is not None else replace(limits, context=self.decoder.max_positions)

    def push(self) -> None:
        """Gives the learner's weights to the engine; between two updates only."""
        if self.sampling is not None:
            with torch.no_grad():
                for theirs, mine in zip(self.sampling.parameters(), self.decoder.parameters(), strict=True):
                    theirs.copy_(mine)
        self.engine.advance()


def served(fleet: Fleet, tokenizer: PreTrainedTokenizerBase, decoder: LanguageModel, version: int) -> VLLMEngine:
    """An engine whose servers sample with copies of the decoder's weights."""

    def save(folder: Path) -> None:
        save_model(decoder, folder)
        save_tokenizer(tokenizer, folder)

    def score(ids: tuple[int, ...]) -> tuple[float, ...]:
        return EmbeddedEngine(decoder, EngineConfig(slots=1)).score_many([ids])[0]

    return VLLMEngine(fleet, vocab_size=decoder.vocab_size, save=save, score=score, version=version)


def seat(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    decoder: LanguageModel,
    version: int = 0,
    *,
    adapters: Adapters | None = None,
    fleet: Fleet | None = None,
) -> Seat:
    """Puts a decoder to work.

    Args:
        config: the run's settings.
        tokenizer: with a chat template.
        decoder: its weights are changed in place by the learner.
        version: weight updates done so far.
        adapters: over the decoder; the learner trains them alone.
        fleet: vLLM servers to sample from; None samples in this process.

    Raises:
        ConfigError: the tokenizer has ids the model lacks, or more context is asked for than the model has.
        TemplateError: the chat template cannot be used token-exactly.
    """
    limit, asked = decoder.max_positions, config.limits.context
    if asked is not None and asked > limit:
        raise ConfigError(f"limits.context {asked!r} is more than the model's {limit} positions")
    if len(tokenizer) > decoder.vocab_size:
        raise ConfigError(
            f"the tokenizer has {len(tokenizer)} ids, the model {decoder.vocab_size}; use the tokenizer it was made with"
        )
    chat = format_for(tokenizer, config.model.retention)
    sampling = None if config.asynchrony is None else deepcopy(decoder)
    here = EmbeddedEngine(sampling or decoder, config.engine, decode=partial(decode, tokenizer), version=version)
    engine = here if fleet is None else served(fleet, tokenizer, sampling or decoder, version)
    learning = replace(
        config.learner,
        seed=stream(config.seed, "learner", config.learner.seed),
        schedule=config.learner.schedule.over(config.updates),
    )
    if config.learners is None:
        learner = Learner(decoder, learning, reference=isinstance(config.lesson, PairsLesson), adapters=adapters)
    else:
        learner = GroupLearner(decoder, learning, config.learners)
    judge = None
    if config.critic is not None:
        if not isinstance(decoder, Decoder):
            raise ConfigError(f"a critic reads the states of the compact decoder, which the model is not ({decoder.note})")
        schedule = config.critic.schedule.over(config.steps * config.critic.epochs)
        judge = make_critic(decoder, replace(config.critic, schedule=schedule), config.seed)
    return Seat(tokenizer, chat, decoder, learner, engine, judge, sampling)
