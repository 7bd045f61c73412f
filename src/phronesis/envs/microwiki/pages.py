"""The pages that tell of a world, and of what is not so in it: sources of four levels, old editions, aliases, altered copies.

How far a source is to be trusted: official register, then encyclopaedia (the latest edition), then newspaper, then forum. A
mirror copies an encyclopaedia page, faithfully or not, and proves nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from phronesis.envs.microwiki.world import RELATIONS, World
from phronesis.seeding import rng
from phronesis.tools.search import Page

ENCYCLOPAEDIA = "encyclopaedia, edition 2024"
OLD = "encyclopaedia, edition 1998"
REGISTER = "official register"
NEWSPAPER = "newspaper"
FORUM = "forum"
KINDS = ("register", "edition", "newspaper", "press", "mirror")
"""Kinds of conflict about one fact: the register corrects the encyclopaedia, an old edition is out of date, a newspaper is
wrong, only the press knows and a forum disagrees, a mirror altered its copy."""
ALIASED = 0.4
"""Share of entities with another name and a page that redirects from it."""
MIRRORED = 0.15
"""Share of entities whose encyclopaedia page a mirror copied faithfully."""
BACKGROUND = 0.12
"""Share of facts off the way to the answer about which sources disagree, per unit of the dial `conflicts`."""
_FILLER = (
    "Visitors praise the light in autumn.", "Several accounts of this exist and few agree on the weather.",
    "A plaque was put up and taken down again.", "The local archive keeps a drawing of it.",
    "Older maps spell the name in another way.", "Much of what is told about it is told at fairs.",
)  # fmt: skip
LONG = 0.2
"""Share of entities whose encyclopaedia page begins with a chronicle, so that it takes two looks to read."""
_BUILT = ("market", "bridge", "mill", "school", "harbour", "granary")
_DONE = ("rebuilt", "sold", "closed", "opened again", "painted", "flooded")
Fact = tuple[int, str]


class Library(NamedTuple):
    """Every page about a world, and where what is true stands."""

    pages: tuple[Page, ...]
    """In the order in which they are indexed."""
    evidence: dict[Fact, str]
    """The page that proves a fact."""
    wrong: dict[Fact, int]
    """What a source that is not to be trusted says of a fact."""
    wrong_page: dict[Fact, str]
    """The page that says so."""
    altered: tuple[str, ...]
    """Mirrors whose text is not that of the page they copy."""
    aliased: frozenset[int]
    """Entities with a page that redirects from their alias."""


class Problem(NamedTuple):
    """A question, its answer and what proves it."""

    question: str
    answer: str
    evidence: tuple[str, ...]
    """For every step, the page that proves it."""
    steps: tuple[str, ...]
    """For every step, what to search for."""
    misled: tuple[str, ...]
    """Answers of those who believe a source that is not to be trusted."""
    traps: tuple[str, ...]
    """The pages that say so."""


def provenance(page: Page) -> str:
    """The fingerprint of what a page says.

    >>> provenance(Page(id="a", title="T", text="x")) == provenance(Page(id="b", title="T", text="y"))
    False
    """
    return blake2b(f"{page.title}\x1f{page.text}".encode(), digest_size=8).hexdigest()


def altered(pages: Sequence[Page]) -> tuple[str, ...]:
    """Ids of the pages that claim to copy another one and say something else, or copy one that is not there."""
    known = {page.id: provenance(page) for page in pages}
    claims = [(page, page.source.removeprefix("mirror of ")) for page in pages if page.source.startswith("mirror of ")]
    return tuple(page.id for page, original in claims if known.get(original) != provenance(page))


def library(world: World, seed: str, asked: Sequence[Fact], disputed: dict[Fact, str], conflicts: float) -> Library:
    """Writes the pages.

    Args:
        world: what is true.
        seed: of the arrangement; names do not influence it.
        asked: the facts on the way to the answer.
        disputed: the kind of conflict about each asked fact that sources disagree on.
        conflicts: in [0, 1]; the share of other facts that sources disagree on grows with it.
    """
    source = rng(0, "microwiki-pages", seed)
    kinds = dict(disputed)
    for fact in world.facts:
        chosen = source.choice(KINDS) if source.random() < BACKGROUND * conflicts else None
        if chosen and fact not in asked:
            kinds[fact] = chosen
    aliased = frozenset(e for e in range(len(world.kinds)) if source.random() < ALIASED)
    writer = _Writer(world, source, kinds, aliased)
    for entity in range(len(world.kinds)):
        writer.entity(entity)
    pages = writer.pages
    source.shuffle(pages)
    return Library(tuple(pages), writer.evidence, writer.wrong, writer.wrong_page, altered(pages), aliased)


class _Writer:
    """Writes the pages of one world after the other, drawing the same random numbers whatever things are called."""

    def __init__(self, world: World, source: random.Random, kinds: dict[Fact, str], aliased: frozenset[int]):
        self.world, self.source, self.kinds, self.aliased = world, source, kinds, aliased
        self.pages: list[Page] = []
        self.evidence: dict[Fact, str] = {}
        self.wrong: dict[Fact, int] = {}
        self.wrong_page: dict[Fact, str] = {}
        self.ids = [f"p{n}" for n in source.sample(range(100, 1000), 400)]

    def entity(self, entity: int) -> None:
        """All pages about one entity."""
        world, name = self.world, self.world.names[entity]
        facts = [(entity, relation) for relation in RELATIONS[world.kinds[entity]]]
        for fact in facts:
            if fact in self.kinds:
                self.wrong[fact] = self._wrong(fact)
        main = self._page(name, [self._main(f) for f in facts if self.kinds.get(f) != "press"], ENCYCLOPAEDIA, entity)
        for fact in facts:
            kind = self.kinds.get(fact)
            self.evidence[fact] = main.id
            if kind is not None:
                self._dispute(fact, kind, main)
        if self.source.random() < MIRRORED:
            self._add(main.title, main.text, f"mirror of {main.id}")
        if entity in self.aliased:
            alias = world.aliases[entity]
            self._add(alias, f"{alias} redirects to {name}, page {main.id}.", "redirect")

    def _dispute(self, fact: Fact, kind: str, main: Page) -> None:
        """The pages on which sources disagree about one fact."""
        world, name = self.world, self.world.names[fact[0]]
        true, false = self._said(fact, world.facts[fact]), self._said(fact, self.wrong[fact])
        match kind:
            case "register":
                self.evidence[fact] = self._add(f"Entry: {name}", true, REGISTER)
                self.wrong_page[fact] = main.id
            case "edition":
                self.wrong_page[fact] = self._page(name, [false], OLD, None).id
            case "newspaper":
                self.wrong_page[fact] = self._page(f"Letters about {name}", [false], NEWSPAPER, None).id
            case "press":
                self.evidence[fact] = self._page(f"A report on {name}", [true], NEWSPAPER, None).id
                self.wrong_page[fact] = self._page(f"What do you know of {name}", [false], FORUM, None).id
            case _:
                copied = main.text.replace(true, false)
                self.wrong_page[fact] = self._add(main.title, copied, f"mirror of {main.id}")

    def _main(self, fact: Fact) -> str:
        """What the encyclopaedia says of a fact: the truth, unless the register corrects it."""
        return self._said(fact, self.wrong[fact] if self.kinds.get(fact) == "register" else self.world.facts[fact])

    def _said(self, fact: Fact, value: int) -> str:
        return self.world.sentence(*fact, value)

    def _wrong(self, fact: Fact) -> int:
        entity, name = fact
        relation, truth = self.world.relation(entity, name), self.world.facts[fact]
        if relation.target != "number":
            return self.source.choice(self.world.others(entity, name))
        step = self.source.randint(3, 40)
        return truth + step if truth + step <= relation.high else truth - step

    def _page(self, title: str, sentences: list[str], source: str, entity: int | None) -> Page:
        parts = [*sentences, *self.source.sample(_FILLER, 2)]
        self.source.shuffle(parts)
        if entity is not None and entity in self.aliased:
            parts.insert(0, f"{title}, also called {self.world.aliases[entity]}, is a {self.world.kinds[entity]}.")
        elif entity is not None:
            parts.insert(0, f"{title} is a {self.world.kinds[entity]}.")
        if entity is not None and self.source.random() < LONG:
            parts[1:1] = [self._event() for _ in range(60)]
        self._add(title, " ".join(parts), source)
        return self.pages[-1]

    def _event(self) -> str:
        year = self.source.randint(1400, 1990)
        return f"In {year} the {self.source.choice(_BUILT)} was {self.source.choice(_DONE)}."

    def _add(self, title: str, text: str, source: str) -> str:
        page = Page(id=self.ids[len(self.pages)], title=title, text=text, source=source)
        self.pages.append(page)
        return page.id
