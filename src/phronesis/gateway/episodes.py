"""The gateway's own routes: open an episode, look at it, reward it, finish it."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from phronesis.errors import one_line
from phronesis.gateway.book import Book
from phronesis.gateway.episode import LiveEpisode
from phronesis.gateway.errors import bad_request
from phronesis.gateway.http import answer, read_json, unless_gone
from phronesis.records import Component, Failure, Stop, Task

S = TypeVar("S", bound=Struct)


class GivenTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task an agent brings."""

    id: str
    """Equal ids are the same task; their episodes are compared with one another."""
    payload: dict[str, Any] = {}
    """Kept with the episode; the policy never sees it."""
    split: str = "train"
    """Only ``train`` is learned from."""
    difficulty: float | None = None
    """Larger is harder."""


class NewEpisode(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /episodes``."""

    task: GivenTask | str | None = None
    """What is attempted: a task, or just its id. None asks for work where the gateway hands it out."""
    split: str | None = None
    """Split of a task given by its id."""
    seed: int | None = None
    """Seed of the episode; None draws one."""
    group: str | None = None
    """Group it is compared within; a training run makes its own."""
    wait: float | None = None
    """Seconds to wait for work; None takes ``gateway.wait_seconds``."""


class NewReward(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /episodes/{id}/reward``."""

    score: float | None = None
    """The judgement."""
    name: str = "score"
    """What was judged."""
    turn: int | None = None
    """The turn that earned it; None means the episode as a whole."""
    weight: float = 1.0
    """Factor in the total."""
    audit: bool = False
    """Recorded for people only."""
    answer: str | None = None
    """What was judged, verbatim."""
    explanation: str | None = None
    """Why."""
    components: tuple[Component, ...] = ()
    """Several at once, instead of the above."""
    change: bool = False
    """Allow another score than was given before."""


class End(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /episodes/{id}/finish``."""

    reward: float | None = None
    """Reward of the episode as a whole, where none was given yet."""
    stop: Stop | None = None
    """Why it ended; None means ``completed``, or the limit that stopped it."""
    message: str | None = None
    """What broke, for a fault (``env_fault``, ``infra_fault``, ``cancelled``)."""


async def create(book: Book, request: Request) -> Response:
    """Opens an episode: of the agent's own task, or of the work that is next."""
    body = await _read(book, request, NewEpisode)
    task = _task(book, body)
    if book.work is None or (task is not None and task.split != "train"):
        return answer(_opened(book.create(task, seed=body.seed, group=body.group), request), 201)
    if body.seed is not None or body.group is not None:
        raise bad_request("a training run gives its episodes their seeds and groups; leave out 'seed' and 'group'")
    patience = book.config.wait_seconds if body.wait is None else min(max(body.wait, 0.0), 300.0)
    live = await unless_gone(request, book.work.next(patience, task))
    return answer(_opened(live, request), 201)


async def overview(book: Book, request: Request) -> Response:
    """What is going on."""
    open_ones = [{"id": e.id, "task": e.task.id, "turns": len(e.turns), "idle": round(e.idle, 1)} for e in book.open.values()]
    return answer({"open": open_ones, "counts": dict(book.counts), "in_flight": book.in_flight})


async def show(book: Book, request: Request) -> Response:
    """All that is known of an episode, finished or not."""
    id: str = request.path_params["episode"]
    ended = book.ended.get(id)
    return answer(book.get(id).summary() if ended is None else ended)


async def reward(book: Book, request: Request) -> Response:
    """Notes rewards; giving the same one twice changes nothing."""
    live = book.get(request.path_params["episode"])
    body = await _read(book, request, NewReward)
    parts = body.components or (
        Component(
            name=body.name,
            score=body.score,
            weight=body.weight,
            turn=body.turn,
            audit=body.audit,
            answer=body.answer,
            explanation=body.explanation,
        ),
    )
    if body.components and body.score is not None:
        raise bad_request("give either 'score' or 'components', not both", "bad_reward")
    fresh = [live.reward(part, change=body.change) for part in parts]
    return answer({"id": live.id, "noted": sum(fresh), "repeated": len(fresh) - sum(fresh), "reward": live.summary()["reward"]})


async def finish(book: Book, request: Request) -> Response:
    """Ends an episode and returns its summary."""
    live = book.get(request.path_params["episode"])
    body = await _read(book, request, End)
    fault = body.stop is not None and body.stop.is_fault
    if fault and body.reward is not None:
        raise bad_request(
            f"an episode that ended by {body.stop!r} says nothing about the policy and cannot be rewarded", "bad_reward"
        )
    if body.reward is not None:
        live.reward(Component(name="score", score=body.reward))
    failure = Failure(where="agent", kind="reported", message=(body.message or "no reason was given")[:2000]) if fault else None
    book.finish(live, body.stop, failure)
    return answer(book.ended[live.id])


def _task(book: Book, body: NewEpisode) -> Task | None:
    if body.task is None:
        return None
    if isinstance(body.task, str):
        return Task(id=body.task, env=book.env, split=body.split or "train")
    if body.split is not None and body.split != body.task.split:
        raise bad_request(f"split {body.split!r} and task.split {body.task.split!r} differ; give it once")
    given = body.task
    return Task(id=given.id, env=book.env, payload=given.payload, split=given.split, difficulty=given.difficulty)


def _opened(live: LiveEpisode, request: Request) -> dict[str, object]:
    """What an agent needs to play."""
    root = f"{request.url.scheme}://{request.url.netloc}/episodes/{live.id}"
    return {
        "id": live.id,
        "base_url": f"{root}/v1",
        "anthropic_base_url": root,
        "task": msgspec.to_builtins(live.task),
        "seed": live.seed,
        "group": live.group,
        "step": live.step,
    }


async def _read(book: Book, request: Request, kind: type[S]) -> S:
    try:
        return msgspec.convert(await read_json(request, book.config.body_bytes), kind)
    except msgspec.ValidationError as error:
        raise bad_request(one_line(error)) from error
