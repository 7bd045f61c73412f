"""Generators and judges that the tests of `rows` name by import path."""

from __future__ import annotations


def all_rows():
    yield from ({"prompt": f"{a} + 1?", "answer": a + 1} for a in range(40))


def by_split(split):
    return [{"prompt": f"{split} {n}", "answer": n} for n in range(3 if split == "train" else 2)]


def endless(split, index):
    return {"prompt": f"{split} {index}", "answer": index}


def leaky(split, index):
    """Held-out task 300 is training task 300."""
    return {"prompt": f"{'' if index == 300 else split} {index}", "answer": index}


def wrong(split):
    return "train" if split == "train" else []


def numbers():
    return [1, 2]


def length(completion, prompt, limit, bonus=0.5):
    """Paid for an answer shorter than the limit; a column `bonus` counts when there is one."""
    return bonus * float(0 < len(completion) <= limit) + 0.0 * len(prompt)


def turns(episode):
    return float(len(episode.turns))


def wants_more(completion, style):
    return 1.0
