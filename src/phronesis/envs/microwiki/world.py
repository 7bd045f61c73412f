"""A small invented world: people, towns, companies, rivers and treaties, what holds between them, and what they are called.

The world itself has no names: an entity is a number. Names come from a stream of their own, so that the same world can be told
in other words: an isomorphic copy, whose every right answer is the renamed one.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import NamedTuple

from phronesis.seeding import rng

KINDS = {"person": 9, "town": 7, "company": 5, "river": 4, "treaty": 4}
"""Entities of a world of size 1, by kind."""


class Relation(NamedTuple):
    """Something that holds of every entity of a kind."""

    target: str
    """The kind of entity it leads to, or ``number``."""
    sentence: str
    """How a page says it."""
    phrase: str
    """How a question names its value: a noun phrase for an entity, a whole question for a number."""
    low: int = 0
    """Smallest number."""
    high: int = 0
    """Largest number."""


RELATIONS: dict[str, dict[str, Relation]] = {
    "person": {
        "birthplace": Relation("town", "{s} was born in {v}.", "the town in which {s} was born"),
        "teacher": Relation("person", "{s} was taught by {v}.", "the person who taught {s}"),
        "born": Relation("number", "The year of birth of {s} is {v}.", "In which year was {s} born?", 1700, 1980),
    },
    "town": {
        "river": Relation("river", "{s} lies on the river {v}.", "the river on which {s} lies"),
        "mayor": Relation("person", "The mayor of {s} is {v}.", "the mayor of {s}"),
        "founded": Relation("number", "{s} was founded in the year {v}.", "In which year was {s} founded?", 900, 1890),
        "population": Relation("number", "{s} has {v} inhabitants.", "How many inhabitants has {s}?", 1200, 98000),
    },
    "company": {
        "seat": Relation("town", "{s} has its seat in {v}.", "the town in which {s} has its seat"),
        "founder": Relation("person", "{s} was set up by {v}.", "the person who set up {s}"),
        "staff": Relation("number", "{s} employs {v} people.", "How many people does {s} employ?", 12, 9900),
    },
    "river": {
        "mouth": Relation("town", "The river {s} ends at {v}.", "the town at which the river {s} ends"),
        "length": Relation("number", "The river {s} is {v} kilometres long.", "How many kilometres long is {s}?", 31, 990),
    },
    "treaty": {
        "place": Relation("town", "{s} was signed in {v}.", "the town in which {s} was signed"),
        "author": Relation("person", "{s} was drafted by {v}.", "the person who drafted {s}"),
        "year": Relation("number", "{s} was signed in the year {v}.", "In which year was {s} signed?", 1500, 1990),
    },
}
"""What holds of the entities of each kind."""


def _words(text: str, mark: str = " ") -> tuple[str, ...]:
    return tuple(text.split(mark))


_FIRST = _words("Ada Bela Cato Dora Emil Faye Goran Hedda Ivo Jana Kaspar Lena Milo Nora Orin Petra Rafe Selma Tibor Una")
_START = _words("bar cor dal el fen gar hol is jor kel lun mar nor os pel quin ros sel tor ul ver wes yar zan")
_MIDDLE = _words("a e i o u an en il or ar is em")
_END = {
    "person": _words("mond sen vik ley dottir kamp rell nov"),
    "town": _words("burg ford stad wick haven mere tal minster"),
    "company": _words(" Works| & Sons| Mills| Foundry| Shipping| Optics", "|"),
    "river": _words("a e o ine uge ava"),
}
_COLOURS = _words("Amber Silver Crimson Ivory Cobalt Russet Golden Ashen Verdant Scarlet")
_BEASTS = _words("Heron Otter Lynx Falcon Stag Badger Crane Salmon Raven Marten")


class World(NamedTuple):
    """What is true, and what things are called."""

    kinds: tuple[str, ...]
    """Kind of every entity."""
    facts: dict[tuple[int, str], int]
    """Value of every relation of every entity: an entity where the relation leads to one, else a number."""
    names: tuple[str, ...]
    """Name of every entity, each once."""
    aliases: tuple[str, ...]
    """Another name of every entity, each once."""

    def relation(self, entity: int, name: str) -> Relation:
        """A relation of an entity."""
        return RELATIONS[self.kinds[entity]][name]

    def shown(self, entity: int, name: str, value: int) -> str:
        """A value as text: the name of an entity, or a number."""
        return str(value) if self.relation(entity, name).target == "number" else self.names[value]

    def sentence(self, entity: int, name: str, value: int) -> str:
        """A statement that the relation has this value, true or not."""
        said = self.relation(entity, name).sentence.format(s=self.names[entity], v=self.shown(entity, name, value))
        return said[0].upper() + said[1:]

    def others(self, entity: int, name: str) -> list[int]:
        """Entities the relation could lead to and does not."""
        target, truth = self.relation(entity, name).target, self.facts[entity, name]
        return [e for e, kind in enumerate(self.kinds) if kind == target and e not in (truth, entity)]


@lru_cache(maxsize=64)
def world(seed: str, names: str, size: int = 1) -> World:
    """The world of a seed, told in the names of another.

    Args:
        seed: decides what holds.
        names: decides what things are called.
        size: how many times as many entities as `KINDS` says.
    """
    nameless = truth(seed, size)
    called, others = _names(rng(0, "microwiki-names", names, size), nameless.kinds)
    return nameless._replace(names=called, aliases=others)


@lru_cache(maxsize=64)
def truth(seed: str, size: int = 1) -> World:
    """What holds in the world of a seed, before anything has a name."""
    source = rng(0, "microwiki-world", seed, size)
    kinds = tuple(kind for kind, count in KINDS.items() for _ in range(count * size))
    facts: dict[tuple[int, str], int] = {}
    for entity, kind in enumerate(kinds):
        for name, relation in RELATIONS[kind].items():
            if relation.target == "number":
                facts[entity, name] = source.randint(relation.low, relation.high)
            else:
                choices = [e for e, k in enumerate(kinds) if k == relation.target and e != entity]
                facts[entity, name] = source.choice(choices)
    return World(kinds, facts, (), ())


def _names(source: random.Random, kinds: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A name and an alias for every entity, all different, no word of which is a word of another's."""
    taken: set[str] = set()

    def fresh(kind: str) -> str:
        while True:
            if kind == "treaty":
                name = f"the Treaty of the {source.choice(_COLOURS)} {source.choice(_BEASTS)}"
            else:
                stem = "".join((source.choice(_START), source.choice(_MIDDLE), source.choice(_START)))
                name = stem.capitalize() + source.choice(_END[kind])
                name = f"{source.choice(_FIRST)} {name}" if kind == "person" else name
            mark = name if kind == "treaty" else name.split()[-1 if kind == "person" else 0]
            if mark not in taken:
                taken.add(mark)
                return name

    pairs = [(fresh(kind), fresh(kind)) for kind in kinds]
    return tuple(name for name, _ in pairs), tuple(alias for _, alias in pairs)
