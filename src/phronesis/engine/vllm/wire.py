"""vLLM's two ways of asking for ids: the token route and the completions route."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from phronesis.engine.http import BrokenReply
from phronesis.engine.vllm.ask import Ask, Said, checked, finite
from phronesis.errors import WireError
from phronesis.records import Finish

T = TypeVar("T")
FINISH = {"stop": Finish.stop, "length": Finish.length}


class _Logprob(Struct):
    token_id: int
    logprob: float | None
    top_logprobs: list[_Logprob] | None = None


class _Content(Struct):
    content: list[_Logprob]


class _Span(Struct):
    version: str


class _Prompted(Struct):
    logprob: float | None


Prompted = list[dict[int, _Prompted] | None] | None


class _Choice(Struct):
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: _Content | None = None
    weight_versions: list[_Span] | None = None


class _Details(Struct):
    cached_tokens: int | None = 0


class _Usage(Struct):
    prompt_tokens_details: _Details | None = None


class _TokenReply(Struct):
    choices: list[_Choice]
    usage: _Usage | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: Prompted = None


class _TextLogprobs(Struct):
    token_logprobs: list[float | None]


class _TextChoice(Struct):
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    finish_reason: str | None = None
    logprobs: _TextLogprobs | None = None
    prompt_logprobs: Prompted = None


class _TextReply(Struct):
    choices: list[_TextChoice]
    usage: _Usage | None = None


class TokenRoute:
    """``POST /inference/v1/generate``: ids in and out, and which weights sampled each of them."""

    path = "inference/v1/generate"
    """Where requests go."""

    def body(self, model: str, ask: Ask) -> dict[str, object]:
        """The request.

        An id to look at is named twice: the server lists the sampled id first and then as many as it was asked for in all.
        """
        params = _params(ask)
        if ask.look is not None:
            params |= {"logprobs": 2, "logprob_token_ids": [ask.look, ask.look]}
        body: dict[str, object] = {"model": model, "token_ids": ask.prompt, "return_token_ids": True, "sampling_params": params}
        return body if ask.salt is None else body | {"cache_salt": ask.salt}

    def read(self, content: bytes, ask: Ask) -> Said:
        """The answer, checked."""
        reply = decoded(content, _TokenReply)
        choice = _only(reply.choices)
        numbers = choice.logprobs.content if choice.logprobs is not None else []
        if [p.token_id for p in numbers] != choice.token_ids:
            raise BrokenReply("the logprobs belong to other ids than those sampled", "counts")
        said = Said(
            ids=tuple(choice.token_ids),
            logprobs=finite([p.logprob for p in numbers]),
            finish=_finish(choice.finish_reason, len(choice.token_ids), ask),
            prompt=_ids(reply.prompt_token_ids),
            labels=tuple(span.version for span in choice.weight_versions or []),
            cached=_cached(reply.usage),
            looked=_looked(numbers, ask.look),
        )
        return checked(said, ask, choice.finish_reason or "nothing")

    def score_body(self, model: str, ids: Sequence[int]) -> dict[str, object]:
        """A request whose prompt is scored; its one sampled id is thrown away."""
        params = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        return {"model": model, "token_ids": tuple(ids), "return_token_ids": True, "sampling_params": params}

    def read_scores(self, content: bytes, ids: Sequence[int]) -> tuple[float, ...]:
        """Nats `[len(ids) - 1]`."""
        reply = decoded(content, _TokenReply)
        return _scores(reply.prompt_logprobs, reply.prompt_token_ids, ids)


class CompletionsRoute:
    """``POST /v1/completions`` with ids for a prompt and ``return_token_ids``: every vLLM server has it.

    It does not say which weights sampled, and gives no log-probability of an id that was not sampled.
    """

    path = "v1/completions"
    """Where requests go."""

    def body(self, model: str, ask: Ask) -> dict[str, object]:
        """The request."""
        params = _params(ask)
        params.pop("detokenize", None)
        body = {"model": model, "prompt": ask.prompt, "return_token_ids": True, **params}
        return body if ask.salt is None else body | {"cache_salt": ask.salt}

    def read(self, content: bytes, ask: Ask) -> Said:
        """The answer, checked."""
        reply = decoded(content, _TextReply)
        choice = _only(reply.choices)
        if choice.token_ids is None:
            raise WireError("choices[0].token_ids", "missing: the server does not know return_token_ids; use a newer vLLM")
        said = Said(
            ids=tuple(choice.token_ids),
            logprobs=finite(choice.logprobs.token_logprobs if choice.logprobs is not None else []),
            finish=_finish(choice.finish_reason, len(choice.token_ids), ask),
            prompt=_ids(choice.prompt_token_ids),
            cached=_cached(reply.usage),
        )
        return checked(said, ask, choice.finish_reason or "nothing")

    def score_body(self, model: str, ids: Sequence[int]) -> dict[str, object]:
        """A request whose prompt is scored; its one sampled id is thrown away."""
        asked = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "return_token_ids": True}
        return {"model": model, "prompt": tuple(ids), **asked}

    def read_scores(self, content: bytes, ids: Sequence[int]) -> tuple[float, ...]:
        """Nats `[len(ids) - 1]`."""
        choice = _only(decoded(content, _TextReply).choices)
        return _scores(choice.prompt_logprobs, choice.prompt_token_ids, ids)


def _params(ask: Ask) -> dict[str, object]:
    """What both routes call the same. Greedy requests carry no filters: their logprobs are of the whole distribution."""
    params: dict[str, object] = {
        "max_tokens": ask.max_tokens,
        "temperature": ask.temperature,
        "seed": ask.seed,
        "logprobs": 0,
        "ignore_eos": True,  # only the stop ids that were sent end it
        "stop_token_ids": ask.stop_ids,
    }
    if ask.temperature > 0:
        params |= {"top_p": ask.top_p, "top_k": ask.top_k, "min_p": ask.min_p}
    return params | ({"stop": ask.stop_strings} if ask.stop_strings else {"detokenize": False})


def decoded(content: bytes, kind: type[T]) -> T:
    """The JSON, as what it should be.

    Raises:
        WireError: it is something else.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # also NaN, which is no JSON
        raise WireError("", f"not the JSON that was expected: {error}") from error


def _only(choices: Sequence[T]) -> T:
    if len(choices) != 1:
        raise WireError("choices", f"expected one, got {len(choices)}")
    return choices[0]


def _finish(reason: str | None, n: int, ask: Ask) -> Finish:
    return Finish.context if reason == "length" and n < ask.max_tokens else FINISH.get(reason or "", Finish.cancelled)


def _ids(ids: list[int] | None) -> tuple[int, ...] | None:
    return None if ids is None else tuple(ids)


def _cached(usage: _Usage | None) -> int:
    details = usage.prompt_tokens_details if usage is not None else None
    return (details.cached_tokens or 0) if details is not None else 0


def _looked(numbers: Sequence[_Logprob], look: int | None) -> float | None:
    """The log-probability of the id looked at; a filtered one stands at its floor."""
    if look is None:
        return None
    for p in (numbers[0].top_logprobs or []) if numbers else []:
        if p.token_id == look and p.logprob is not None:
            return p.logprob
    raise BrokenReply(f"the server did not say how likely id {look} was", "counts")


def _scores(found: Prompted, consumed: list[int] | None, ids: Sequence[int]) -> tuple[float, ...]:
    if consumed is not None and tuple(consumed) != tuple(ids):
        raise BrokenReply(f"the server consumed {len(consumed)} other ids than the {len(ids)} it was sent", "other_ids")
    if found is None or len(found) != len(ids):
        raise BrokenReply(f"{len(found or [])} prompt logprobs for {len(ids)} ids", "counts")
    rows = [None if row is None else row.get(i) for row, i in zip(found[1:], ids[1:], strict=True)]
    return finite([None if row is None else row.logprob for row in rows])
