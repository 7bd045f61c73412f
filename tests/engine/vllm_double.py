"""What a vLLM server looks like from outside, scripted: health, models, weights, the token route, and faults on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scripted_server import Heard, Said

VOCAB, CONTEXT = 50, 64
Fault = Callable[[dict[str, Any]], Said | None]
"""From a request for ids to a faulty answer; None answers rightly."""


@dataclass
class Double:
    """The script of one server. It answers ``(sum of the prompt + t) % 40`` and stops never, each id with −0.5 nats."""

    label: str = "default"
    faults: list[Fault] = field(default_factory=list[Fault])
    """The first takes the first request for ids, and so on; later requests are answered rightly."""
    healthy: bool = True
    paused: bool = False
    takes: bool = True
    """Whether weights really change."""
    log: list[str] = field(default_factory=list[str])
    """Control requests, in order."""
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Requests for ids."""
    nats: float = -0.5
    after: Callable[[], None] | None = None

    def __call__(self, heard: Heard) -> Said:
        path, _, query = heard.path.partition("?")
        if not self.healthy:
            return Said(drop=True)
        if path == "/health":
            return Said(body={})
        if path == "/v1/models":
            return Said(body={"data": [{"id": "m", "max_model_len": CONTEXT}]})
        if path == "/weight_info":
            return Said(body={"weight_version": self.label})
        if path == "/inference/v1/generate":
            return self.generate(heard.body)
        self.log.append(f"{path}?{query}" if query else path)
        if path == "/update_weight_version" and self.takes:
            self.label = heard.body["new_version"]
        return Said(body={})

    def generate(self, body: dict[str, Any]) -> Said:
        params = body["sampling_params"]
        if "prompt_logprobs" not in params:
            self.asked.append(body)
            if self.faults and (said := self.faults.pop(0)(body)) is not None:
                return said
        return Said(body=self.answer(body))

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, params = body["token_ids"], body["sampling_params"]
        n = min(params["max_tokens"], CONTEXT - len(prompt))
        ids = [(sum(prompt) + t) % 40 for t in range(n)]
        stops = [t for t, i in enumerate(ids) if i in params.get("stop_token_ids", ())]
        reason = "length"
        if stops:
            ids, reason = ids[: stops[0] + 1], "stop"
        content = [{"token_id": i, "logprob": self.nats, "top_logprobs": [{"token_id": i, "logprob": self.nats}]} for i in ids]
        for look in params.get("logprob_token_ids", ())[:1]:
            content[0]["top_logprobs"] += [{"token_id": look, "logprob": -1.5}]
        spans = [{"version": self.label, "start": 0, "end": len(ids)}]
        reply = {
            "choices": [
                {
                    "token_ids": ids,
                    "finish_reason": reason,
                    "logprobs": {"content": content},
                    "weight_versions": spans,
                }
            ],
            "prompt_token_ids": prompt,
            "usage": {"prompt_tokens_details": {"cached_tokens": 3}},
        }
        if "prompt_logprobs" in params:
            reply["prompt_logprobs"] = [None, *({str(i): {"logprob": self.nats}} for i in prompt[1:])]
        return reply


def changed(**changes: Any) -> Callable[[Double], Fault]:
    """A fault: the right answer with other fields of its choice, or of the reply where the choice has none."""

    def bind(double: Double) -> Fault:
        def fault(body: dict[str, Any]) -> Said:
            reply = double.answer(body)
            for name, value in changes.items():
                where = reply["choices"][0] if name in reply["choices"][0] else reply
                where[name] = value
            return Said(body=reply)

        return fault

    return bind


def says(said: Said) -> Callable[[Double], Fault]:
    """A fault: this answer, whatever was asked."""
    return lambda double: lambda body: said
