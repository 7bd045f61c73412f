"""Tasks of `microwiki`: a question that takes one to four pages to answer, and which pages prove the answer.

A task is generated from (split, index, salt) alone. Its content key hashes the way to the answer without names: the relations,
the entities by number, the values, and what sources disagree about. The key decides the split, so no held-out problem can occur
in training, and an isomorphic copy of a problem lies where the problem lies.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from phronesis.envs.digest import digest, split_of
from phronesis.envs.game_env import levels
from phronesis.envs.microwiki.pages import KINDS, Fact, Library, Problem, library, provenance
from phronesis.envs.microwiki.stdlib import LEVELS, stdlib
from phronesis.envs.microwiki.world import RELATIONS, World, truth, world
from phronesis.errors import ConfigError
from phronesis.records import Task, say
from phronesis.seeding import rng
from phronesis.tools.search import Page

CorpusName = Literal["generated", "stdlib"]
HOPS = 4
"""Most pages an answer takes."""
RULES = (
    "Search the pages and answer the question. Where sources disagree, the official register counts first, then the "
    "encyclopaedia (its latest edition), then a newspaper, then a forum; a mirror proves nothing.\n"
    "End with two lines:\n"
    "answer: VALUE\n"
    "pages: the ids of the pages that prove each step, which you have opened\n"
    "Give a number in digits, a name as the title of its page. Name no more pages than twice what it takes."
)


class Dials(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hard the tasks are."""

    min_difficulty: int = 1
    """Fewest pages that an answer takes."""
    max_difficulty: int = 3
    """Most pages that an answer takes, up to 4."""
    conflicts: float = 0.5
    """Share of the facts on the way to the answer that sources disagree on, in [0, 1]."""
    size: int = 1
    """How many times as many pages, from 1 to 3; 1 means about 50."""
    corpus: CorpusName = "generated"
    """Which pages there are: an invented world, or the documentation of Python's standard library (levels up to 3)."""
    salt: str = ""
    """Tasks of another salt are others; a secret one cannot be prepared for."""

    def validate(self) -> None:
        """Raises ConfigError for values out of range."""
        levels("microwiki", self.min_difficulty, self.max_difficulty, HOPS if self.corpus == "generated" else LEVELS)
        if not 0 <= self.conflicts <= 1:
            raise ConfigError(f"microwiki conflicts must be in [0, 1], got {self.conflicts!r}")
        if not 1 <= self.size <= 3:
            raise ConfigError(f"microwiki size must be 1, 2 or 3, got {self.size!r}")


class Plan(NamedTuple):
    """What is asked of a world, without names."""

    subject: int
    relations: tuple[str, ...]
    kinds: tuple[str, ...]
    """For every step, the kind of conflict, empty where sources agree."""
    aliased: bool
    """Whether the question calls the subject by its other name."""


def plan(source: random.Random, found: World, hops: int, conflicts: float) -> tuple[Plan, tuple[Fact, ...]]:
    """Draws a question of so many steps, and the facts that answer it. No entity is passed twice."""
    while True:
        entity, relations, facts = source.randrange(len(found.kinds)), list[str](), list[Fact]()
        subject = entity
        for step in range(hops):
            offered = RELATIONS[found.kinds[entity]]
            names = [n for n, r in offered.items() if step == hops - 1 or r.target != "number"]
            relations.append(source.choice(names))
            facts.append((entity, relations[-1]))
            entity = found.facts[facts[-1]]
        passed = [fact[0] for fact in facts]
        ends = found.relation(*facts[-1]).target != "number" and entity in passed
        if len(set(passed)) == hops and not ends:
            kinds = tuple(source.choice(KINDS) if source.random() < conflicts else "" for _ in facts)
            return Plan(subject, tuple(relations), kinds, hops > 1 and source.random() < 0.5), tuple(facts)


@lru_cache(maxsize=64)
def planned(seed: str, hops: int, conflicts: float, size: int) -> tuple[Plan, tuple[Fact, ...], str]:
    """The question, the facts that answer it, and the content key, which takes no page and no name to know."""
    found = truth(seed, size)
    asked, facts = plan(rng(0, "microwiki-plan", seed), found, hops, conflicts)
    values = [found.facts[fact] for fact in facts]
    return asked, facts, digest(["microwiki", asked.subject, asked.relations, asked.kinds, values])


@lru_cache(maxsize=64)
def generated(seed: str, names: str, hops: int, conflicts: float, size: int) -> tuple[Library, Problem, str]:
    """The pages, the problem and its content key.

    Args:
        seed: decides the world, the question and the arrangement of the pages.
        names: decides what things are called.
        hops: steps of the question.
        conflicts: see `Dials`.
        size: see `Dials`.
    """
    found = world(seed, names, size)
    asked, facts, key = planned(seed, hops, conflicts, size)
    disputed = {fact: kind for fact, kind in zip(facts, asked.kinds, strict=True) if kind}
    pages = library(found, seed, facts, disputed, conflicts)
    values = [found.facts[fact] for fact in facts]
    misled = [found.shown(*fact, pages.wrong[fact]) for fact in facts[-1:] if fact in pages.wrong]
    misled += [
        _follow(found, facts[i], pages.wrong[facts[i]], asked.relations[i + 1 :])
        for i in range(hops - 1)
        if facts[i] in pages.wrong
    ]
    right = found.shown(*facts[-1], values[-1])
    problem = Problem(
        question=question(found, asked, facts, pages.aliased),
        answer=right,
        evidence=tuple(pages.evidence[fact] for fact in facts),
        steps=tuple(found.names[entity] for entity, _ in facts),
        misled=tuple(m for m in dict.fromkeys(misled) if m != right),
        traps=tuple(pages.wrong_page[fact] for fact in facts if fact in pages.wrong),
    )
    return pages, problem, key


def _follow(found: World, first: Fact, value: int, relations: Sequence[str]) -> str:
    """Where the question leads when one step is answered with another value."""
    fact = first
    for name in relations:
        fact = (value, name)
        value = found.facts[fact]
    return found.shown(*fact, value)


def question(found: World, asked: Plan, facts: Sequence[Fact], aliased: frozenset[int]) -> str:
    """The question in words, e.g. ``How many inhabitants has the town in which Ada Velmor was born?``."""
    shown = found.aliases[asked.subject] if asked.aliased and asked.subject in aliased else found.names[asked.subject]
    for fact in facts[:-1]:
        shown = found.relation(*fact).phrase.format(s=shown)
    last = found.relation(*facts[-1])
    said = last.phrase.format(s=shown)
    return said if last.target == "number" else f"What is the name of {said}?"


def corpus_of(payload: Mapping[str, Any]) -> tuple[tuple[Page, ...], Problem]:
    """The pages and the problem of a task's payload.

    Raises:
        ConfigError: the pages are not those the task was made with.
    """
    if payload["kind"] == "stdlib":
        pages, problem, _ = stdlib(**payload["corpus"])
    else:
        found, problem, _ = generated(**payload["corpus"])
        pages = found.pages
    if frozen(pages) != payload["frozen"]:
        raise ConfigError("the pages differ from those this task was made with; make the task anew with this version")
    return pages, problem


def frozen(pages: Sequence[Page]) -> str:
    """The fingerprint of a whole corpus."""
    return digest([[page.id, page.source, provenance(page)] for page in pages])


def task(dials: Dials, split: str, index: int) -> Task:
    """The task of that split and index, the same on every machine."""
    source = rng(index, "microwiki", split, dials.salt)
    hops = source.randint(dials.min_difficulty, dials.max_difficulty)
    while True:
        seed = f"{source.getrandbits(48):x}"
        corpus: dict[str, Any] = {"seed": seed, "hops": hops, "conflicts": dials.conflicts, "size": dials.size}
        key = stdlib(**corpus)[2] if dials.corpus == "stdlib" else planned(**corpus)[2]
        if split_of(key) == ("train" if split == "train" else "heldout"):
            break
    if dials.corpus == "stdlib":
        pages, problem, _ = stdlib(**corpus)
    else:
        corpus |= {"names": seed}
        found, problem, _ = generated(**corpus)
        pages = found.pages
    made = Task(id=f"microwiki-{split}-{index}", env="microwiki", split=split, difficulty=float(hops), content_key=key)
    return told(made, dials.corpus, corpus, pages, problem)


def told(made: Task, kind: str, corpus: Mapping[str, Any], pages: Sequence[Page], problem: Problem) -> Task:
    """The task with its question and payload."""
    return msgspec.structs.replace(
        made,
        messages=(say("user", f"{problem.question}\n\n{RULES}"),),
        payload={
            "kind": kind,
            "corpus": dict(corpus),
            "frozen": frozen(pages),
            "answer": problem.answer,
            "evidence": list(problem.evidence),
        },
    )


def renamed(original: Task, names: str) -> Task:
    """The same task in a generated world where everything is called otherwise: an isomorphic copy, of the same key."""
    corpus = {**original.payload["corpus"], "names": names}
    pages, problem, key = generated(**corpus)
    made = msgspec.structs.replace(original, id=f"{original.id}-{names}", content_key=key)
    return told(made, "generated", corpus, pages.pages, problem)
