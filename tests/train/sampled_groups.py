"""Groups of episodes really sampled from a tiny decoder, so that every number in them agrees with it."""

import torch

from phronesis.models.decoder import Decoder
from phronesis.models.layout import plan
from phronesis.models.tiny import TinyModel, tiny
from phronesis.policy import prompt_crc
from phronesis.records import Component, Episode, EpisodeGroup, Finish, Reply, Reward, Stop, Task, Turn
from phronesis.seeding import rng, stream

VOCABULARY = 61


def make_decoder(seed=0, layers=2) -> Decoder:
    sizes = TinyModel(width=32, layers=layers, heads=2, kv_heads=1, head_dim=16, mlp_width=48, matrix_std=0.15, embed_std=0.3)
    return tiny(sizes, VOCABULARY, seed)


def full_logp(decoder, ids, temperature=1.0):
    """Nats of every next token of one sequence, by a plain forward pass."""
    with torch.no_grad():
        hidden = decoder.hidden(torch.tensor(ids), plan([len(ids)], [None]))
        logits = decoder.logits(hidden) / temperature
    return logits.log_softmax(-1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def play(decoder, task, name, seed, *, turns=(3, 4), prompt=(), temperature=1.0, forced=()):
    """A chain of turns; `turns[k]` tokens each, `forced` holds (turn, token) pairs that were not sampled."""
    source = rng(seed, name)
    history, found = [], []
    for k, length in enumerate(turns):
        context = list(prompt) if k == 0 else [source.randrange(VOCABULARY) for _ in range(2)]
        completion = [source.randrange(VOCABULARY) for _ in range(length)]
        ids = [*history, *context, *completion]
        logp = full_logp(decoder, ids, temperature)[len(ids) - length - 1 :].tolist()
        found.append(
            Turn(
                parent=k - 1 if k else None,
                context=tuple(context),
                completion=tuple(completion),
                sampled=tuple((k, t) not in forced for t in range(length)),
                logprobs=tuple(logp),
                temperature=temperature,
                finish=Finish.stop,
                prompt_crc=prompt_crc([*history, *context]),
                reply=Reply(state_key=f"{k}-{completion[0] % 2}"),
            )
        )
        history = ids
    reward = Reward(components=(Component(name="r", score=source.choice([0.0, 0.5, 1.0]) + 0.01 * source.random()),))
    return Episode(id=name, task=task, seed=seed, turns=tuple(found), stop=Stop.completed, reward=reward)


def make_group(decoder, index, *, size=3, shared=20, own=3, **options):
    """`size` attempts at one task; all groups begin with the same `shared` ids, then `own` ids of the group."""
    source = rng(7, "prompt", index)
    prompt = [5 + i % 40 for i in range(shared)] + [source.randrange(VOCABULARY) for _ in range(own)]
    task = Task(id=f"t{index}", env="toy")
    lengths = [tuple(rng(index, i).randrange(1, 6) for _ in range(1 + i % 3)) for i in range(size)]
    episodes = [
        play(decoder, task, f"e-{index}-{i}", stream(index, i), prompt=prompt, turns=lengths[i], **options) for i in range(size)
    ]
    return EpisodeGroup(id=f"g{index}", task=task, episodes=tuple(episodes))


def path_of(batch, index):
    """Ids from the root to the end of a segment, and where the segment starts."""
    ids, at = [], index
    while at is not None:
        ids = [*batch.segments[at].ids, *ids]
        at = batch.segments[at].parent
    return ids, len(ids) - len(batch.segments[index].ids)


def trained(batch):
    """(episode, turn) -> list of (consumed ids, token, logprob, advantage)."""
    found = {}
    for i, s in enumerate(batch.segments):
        ids, start = path_of(batch, i)
        for t, marked in enumerate(s.mask):
            if marked:
                key = (batch.episodes[s.episode], s.turns[t])
                found.setdefault(key, []).append((tuple(ids[: start + t]), s.ids[t], s.logprobs[t], s.advantages[t]))
    return found
