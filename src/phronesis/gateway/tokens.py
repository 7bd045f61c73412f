"""The token route ``POST /inference/v1/generate``: ids in, ids and log-probabilities out, no chat format in between.

It is vLLM's, so that programs which keep the token tree themselves (verifiers, prime-rl) can sample here. Log-probabilities
carry both shapes in use: ``token_id`` beside ``token: "token_id:N"``. Such requests belong to no episode and are not recorded.
"""

from __future__ import annotations

import math
import secrets
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from phronesis.errors import PolicyFault, one_line
from phronesis.gateway.book import Book
from phronesis.gateway.errors import GatewayError, bad_request
from phronesis.gateway.http import answer, read_json, unless_gone
from phronesis.policy import Completion, SamplingParams, Versioned
from phronesis.records import Finish
from phronesis.rollout.deadlines import within
from phronesis.seeding import stream

Ids = tuple[Annotated[int, Meta(ge=0, lt=2**31)], ...]


class TokenSampling(Struct, frozen=True, kw_only=True):
    """``sampling_params``, as far as they are understood; `read` refuses others unless they change nothing."""

    max_tokens: int = 16
    """Most ids to produce."""
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    """Nucleus mass."""
    top_k: int = 0
    """Most likely ids kept; 0 or -1 keeps all."""
    min_p: float = 0.0
    """Relative probability floor."""
    seed: int | None = None
    """None draws one."""
    stop_token_ids: Ids | None = None
    """Ids that end the completion, beside the chat format's own."""
    stop: str | tuple[str, ...] | None = None
    """Texts that end it."""
    ignore_eos: bool = False
    """Do not stop at the chat format's own ids."""
    n: int = 1
    """Must be 1."""
    logprobs: int | None = 1
    """None leaves log-probabilities out; more than the sampled id's own are not given."""


class Generate(Struct, frozen=True, kw_only=True):
    """Body of the token route."""

    token_ids: Ids
    """The prompt."""
    sampling_params: dict[str, Any] = {}
    """See `TokenSampling`."""
    model: str | None = None
    """Name of the model; None means the one there is."""
    request_id: str | None = None
    """Given back."""
    stream: bool = False
    """Must be False."""
    return_token_ids: bool = False
    """Give the prompt's ids back."""
    cache_salt: str | None = None
    """Requests with different salts share no cached state; no meaning here, since new weights drop the cache."""


UNDERSTOOD = frozenset(f.name for f in msgspec.structs.fields(TokenSampling))
NEUTRAL = {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1, "min_tokens": 0}
"""Parameters of vLLM that are accepted at the value at which they change nothing."""
IDLE = frozenset({"skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output", "detokenize"})
"""Parameters of vLLM that speak of text, which this route does not give."""


async def generate(book: Book, request: Request) -> Response:
    """Continues ids.

    Raises:
        GatewayError: the request asks for something that cannot be done.
        PolicyFault: the policy failed.
    """
    try:
        body = msgspec.convert(await read_json(request, book.config.body_bytes), Generate)
        sampling = read(body.sampling_params)
    except msgspec.ValidationError as error:
        raise bad_request(one_line(error)) from error
    if body.model not in (None, book.config.model) and not book.config.any_model:
        raise GatewayError(404, "model_not_found", f"no model {body.model!r} here; the model is {book.config.model!r}")
    if body.stream:
        raise bad_request("this route does not stream; leave out 'stream'")
    id = body.request_id or secrets.token_hex(8)
    async with book.admitted():
        try:
            sampled = book.policy.sample(body.token_ids, _params(book, sampling, id))
            limited = within(book.limits.policy_seconds, sampled, PolicyFault, "the policy (limits.policy_seconds)")
            done = await unless_gone(request, limited)
        except PolicyFault as fault:
            raise bad_request(str(fault)) if fault.__cause__ is None else fault from fault
    choice = _choice(done, logprobs=sampling.logprobs is not None)
    if isinstance(book.policy, Versioned):
        choice["weight_versions"] = list(done.version)
    usage = {"prompt_tokens": len(body.token_ids), "completion_tokens": len(done.ids)}
    found: dict[str, Any] = {"request_id": id, "choices": [choice], "usage": usage | {"total_tokens": sum(usage.values())}}
    if body.return_token_ids:
        found["prompt_token_ids"] = list(body.token_ids)
    return answer(found)


def read(given: dict[str, Any]) -> TokenSampling:
    """Sampling parameters; those that nothing here can follow are refused, unless they would change nothing.

    Raises:
        GatewayError: names the parameter.
        msgspec.ValidationError: one is of the wrong type.
    """
    for name, value in given.items():
        if name not in UNDERSTOOD | IDLE and value is not None and NEUTRAL.get(name) != value:
            raise bad_request(f"sampling_params.{name} = {value!r} is not supported; leave it out")
    sampling = msgspec.convert(
        {k: v for k, v in given.items() if k in UNDERSTOOD and (v is not None or k == "logprobs")}, TokenSampling
    )
    if sampling.n != 1:
        raise bad_request(f"sampling_params.n must be 1 on this route, got {sampling.n!r}")
    return sampling


def _params(book: Book, sampling: TokenSampling, id: str) -> SamplingParams:
    own = () if sampling.ignore_eos else book.chat.stop_ids
    stops = (sampling.stop,) if isinstance(sampling.stop, str) else sampling.stop or ()
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=max(sampling.top_k, 0),
        min_p=sampling.min_p,
        stop_ids=tuple(dict.fromkeys((*own, *(sampling.stop_token_ids or ())))),
        stop_strings=stops,
        seed=stream(book.seed, "tokens", secrets.token_hex(8) if sampling.seed is None else sampling.seed),
    )


def _choice(done: Completion, *, logprobs: bool) -> dict[str, Any]:
    content: list[dict[str, Any]] = [
        {
            "token": f"token_id:{token}",
            "token_id": token,
            "logprob": value if math.isfinite(value) else -9999.0,
            "top_logprobs": [],
        }
        for token, value in zip(done.ids, done.logprobs, strict=True)
    ]
    ended = done.finish is Finish.stop
    return {
        "index": 0,
        "finish_reason": "stop" if ended else "length",
        "stop_reason": done.ids[-1] if ended and done.ids else None,
        "token_ids": list(done.ids),
        "logprobs": {"content": content} if logprobs else None,
    }
