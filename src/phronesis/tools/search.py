"""Search over a corpus of pages: SQLite's full-text index ranked by BM25, and a reader that shows a page piece by piece."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from phronesis.errors import ConfigError, ToolError
from phronesis.tool import Tool, as_tool, tool

SHOWN = 2000
"""Characters of a page shown at once."""


class Page(Struct, frozen=True, kw_only=True):
    """A document of a corpus."""

    id: str
    """Unique in the corpus, e.g. a path."""
    title: str
    text: str
    source: str = ""
    """Where it is from: what a reader needs to judge how far to trust it. Shown with every hit."""


class Corpus:
    """Pages and their index, in memory or in a file that many episodes read."""

    def __init__(self, path: Path | None = None):
        """Opens an index, or an empty one.

        Args:
            path: a file made by `build`, opened for reading; None means a new one in memory.
        """
        if path is None:
            self.rows = sqlite3.connect(":memory:", check_same_thread=False)
            self.rows.execute(
                "create virtual table pages using fts5(id unindexed, title, body, source unindexed, tokenize='porter')"
            )
        else:
            if not path.is_file():
                raise ConfigError(f"there is no corpus at {str(path)!r}; build one with Corpus.build")
            self.rows = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            try:
                self.rows.execute("select id, title, body, source from pages limit 1")
            except sqlite3.DatabaseError as error:
                self.rows.close()
                raise ConfigError(f"{str(path)!r} is no corpus ({error}); build one with Corpus.build") from error

    @classmethod
    def build(cls, path: Path, pages: Iterable[Page]) -> Corpus:
        """Writes an index to a file, replacing one that is there, and opens it."""
        fresh = path.with_suffix(".partial")
        fresh.unlink(missing_ok=True)
        made = cls()
        made.add(pages)
        with sqlite3.connect(fresh) as file:
            made.rows.backup(file)
        file.close()
        fresh.replace(path)
        return cls(path)

    def add(self, pages: Iterable[Page]) -> None:
        """Indexes pages."""
        self.rows.executemany("insert into pages values (?, ?, ?, ?)", ((p.id, p.title, p.text, p.source) for p in pages))
        self.rows.commit()

    def __len__(self) -> int:
        return int(self.rows.execute("select count(*) from pages").fetchone()[0])

    def search(self, query: str, most: int = 5) -> list[tuple[Page, str]]:
        """The pages that fit best, with the piece of text that fits. Any word may match; rare words and titles count more."""
        words = re.findall(r"\w+", query)[:32]
        if not words:
            return []
        wanted = " OR ".join(f'"{word}"' for word in dict.fromkeys(words))
        found = self.rows.execute(
            "select id, title, body, source, snippet(pages, 2, '', '', ' … ', 24) from pages where pages match ? "
            "order by bm25(pages, 0, 4, 1, 0), rowid limit ?",
            (wanted, most),
        )
        return [(Page(id=r[0], title=r[1], text=r[2], source=r[3]), " ".join(r[4].split())) for r in found]

    def page(self, name: str) -> Page | None:
        """A page by its id."""
        row = self.rows.execute("select id, title, body, source from pages where id = ?", (name,)).fetchone()
        return None if row is None else Page(id=row[0], title=row[1], text=row[2], source=row[3])


class SearchTools:
    """The tools ``search``, ``open_page`` and ``find_in_page`` of one episode. What was opened is kept, for audits."""

    def __init__(self, corpus: Corpus, hits: int = 5):
        """For one episode.

        Args:
            corpus: shared by all episodes.
            hits: results of one search.
        """
        self.corpus, self.hits = corpus, hits
        self.opened: list[str] = []
        """Ids of pages, in the order in which they were opened or found."""

    def tools(self) -> list[Tool]:
        """As tools of an environment."""
        return [as_tool(f) for f in (self.search, self.open_page, self.find_in_page)]

    @tool(effect="pure")
    def search(self, query: str) -> str:
        """Searches the pages and returns the best hits: id, title, source and the piece that fits.

        Args:
            query: words; any may match.
        """
        found = self.corpus.search(query, self.hits)
        self.opened += [page.id for page, _ in found]
        lines = [f"[{page.id}] {page.title}{_source(page)}\n    {piece}" for page, piece in found]
        return "\n".join(lines) or "no page matches"

    @tool(effect="pure")
    def open_page(self, id: str, cursor: int = 0) -> str:
        """Shows a page, 2000 characters at a time.

        Args:
            id: as a search shows it.
            cursor: where to go on, as the last piece said.
        """
        page = self._page(id)
        if not 0 <= cursor <= len(page.text):
            raise ToolError(f"the page has {len(page.text)} characters; cursor {cursor} is beyond them", "bad_argument")
        part = page.text[cursor : cursor + SHOWN]
        end = cursor + len(part)
        note = f"\n[{len(page.text) - end} more characters; continue with cursor={end}]" if end < len(page.text) else ""
        return f"{page.title}{_source(page)}\n{part}{note}"

    @tool(effect="pure")
    def find_in_page(self, id: str, text: str) -> str:
        """Finds a text in a page and shows up to five places with what is around them.

        Args:
            id: as a search shows it.
            text: what to look for; upper and lower case count the same.
        """
        page = self._page(id)
        if not text.strip():
            raise ToolError("nothing to look for", "bad_argument")
        places = [m.start() for m in re.finditer(re.escape(text), page.text, re.IGNORECASE)]
        shown = [f"at {at}: … {' '.join(page.text[max(0, at - 120) : at + 200].split())} …" for at in places[:5]]
        return "\n".join([f"{len(places)} places", *shown])

    def _page(self, name: str) -> Page:
        page = self.corpus.page(name)
        if page is None:
            raise ToolError(f"there is no page {name!r}; use an id that a search shows", "bad_argument")
        self.opened.append(page.id)
        return page


def _source(page: Page) -> str:
    return f" ({page.source})" if page.source else ""
