"""Hand-made groups for the tests of credit."""

from itertools import count

from phronesis.records import Component, Episode, EpisodeGroup, Failure, Finish, Reply, Reward, Stop, Task, Turn

_names = count()


def turn(parent, sampled=(True, True), logprobs=None, author="policy"):
    n = len(sampled)
    return Turn(
        parent=parent,
        author=author,
        context=(1, 2),
        completion=(7,) * n,
        sampled=sampled,
        logprobs=logprobs or (-1.0,) * n,
        finish=Finish.stop,
        prompt_crc=0,
        reply=Reply(),
    )


def episode(rewards, *, sampled=(True, True), parts=None, stop=Stop.completed, logprobs=None, name=None, payload=None):
    """A chain of turns with a reward each; `parts` names further components of the whole episode."""
    turns = tuple(turn(k - 1 if k else None, sampled, logprobs) for k in range(len(rewards)))
    components = tuple(Component(name="turn", score=r, turn=k) for k, r in enumerate(rewards))
    components += tuple(Component(name=k, score=v) for k, v in (parts or {}).items())
    fault = stop.is_fault
    return Episode(
        id=name or f"e{next(_names)}",
        task=task(payload),
        seed=0,
        turns=turns,
        stop=stop,
        reward=None if fault else Reward(components=components),
        failure=Failure(where="env.step", kind="E", message="m") if fault else None,
    )


def task(payload=None):
    return Task(id="t", env="toy", payload=payload or {})


def group(*episodes, name="g", payload=None):
    return EpisodeGroup(id=name, task=task(payload), episodes=episodes)


def returns(*rewards, name="g", tokens=2, payload=None):
    """A group of one-turn episodes with these rewards."""
    return group(*(episode([r], sampled=(True,) * tokens) for r in rewards), name=name, payload=payload)


async def squares(episode, turn):
    """Sums of squared probabilities, as a judge would know them."""
    return [0.5 if episode.id == "won" else 0.3] * len(episode.turns[turn].completion)
