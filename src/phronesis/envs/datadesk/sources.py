"""Where the data comes from: Python's own tables, and what Debian packages put on a machine. Real and free.

A source reads its rows; nothing is downloaded or shipped. Rows are sorted, so that equal data gives equal databases.
"""

from __future__ import annotations

import importlib
import inspect
import json
import locale
import platform
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from encodings import aliases
from hashlib import blake2b
from html.entities import name2codepoint
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from phronesis.errors import ConfigError

SourceName = Literal["python", "packages", "archive", "iso", "wordnet"]
DPKG = Path("/var/lib/dpkg/status")
LISTS = Path("/var/lib/apt/lists")
ISO = Path("/usr/share/iso-codes/json")
WORDNET = Path("/usr/share/wordnet")
MOST = 4000
"""Entities of a source that has more; those whose names hash lowest are kept."""


class Table(NamedTuple):
    """One table of a database."""

    columns: tuple[str, ...]
    """Names, each with ``:n`` behind it for a whole number that is no code and may be altered in a perturbed copy, or ``:i``
    for one that is a code."""
    rows: list[tuple[Any, ...]]


class Source(NamedTuple):
    """A database's content and where it is from."""

    origin: str
    """What it was made from."""
    version: str
    """Changes whenever the content may change."""
    read: Callable[[], dict[str, Table]]
    """Reads the tables."""


_MODULES = """
    abc argparse ast base64 binascii bisect calendar codecs collections configparser contextlib copy csv dataclasses datetime
    difflib dis email.message email.utils enum fileinput fnmatch fractions functools glob gzip hashlib heapq hmac html inspect
    io ipaddress itertools json keyword linecache locale logging math mimetypes numbers operator optparse os.path pathlib
    pickle platform posixpath pprint queue random re reprlib sched selectors shelve shlex shutil signal stat statistics string
    struct tarfile tempfile textwrap threading timeit token tokenize traceback types typing urllib.parse uuid warnings weakref
    xml.dom xml.sax zipfile zlib
"""
MODULES = tuple(_MODULES.split())
"""Modules of the standard library whose functions and classes are listed; importing them does nothing else."""


def python() -> Source:
    """The running Python's own data: characters, entities, functions, encodings, statuses, locales."""
    version = f"{platform.python_version()} {sys.platform} unicode {unicodedata.unidata_version}"
    return Source("the Python that runs", version, _python_tables)


def _python_tables() -> dict[str, Table]:
    codes = [c for low, high in ((0x20, 0x250), (0x370, 0x530), (0x2000, 0x2300)) for c in range(low, high)]
    characters = [
        (c, unicodedata.name(chr(c)), unicodedata.category(chr(c)), unicodedata.bidirectional(chr(c)))
        for c in codes
        if unicodedata.name(chr(c), "")
    ]
    functions = [row for module in MODULES for row in _functions(module)]
    counted = {module: sum(row[0] == module for row in functions) for module in MODULES}
    modules = [(m, m.split(".")[0], _words(importlib.import_module(m)), counted[m]) for m in MODULES]
    locales = {(alias, name.split("_")[0].split(".")[0]) for alias, name in locale.locale_alias.items()}
    return {
        "characters": Table(("code:i", "name", "category", "direction"), sorted(characters)),
        "entities": Table(("name", "code:i"), sorted(name2codepoint.items())),
        "modules": Table(("name", "package", "words:n", "members:n"), sorted(modules)),
        "functions": Table(("module", "name", "kind", "parameters:n", "optional:n", "words:n"), sorted(functions)),
        "encodings": Table(("alias", "codec"), sorted(aliases.aliases.items())),
        "statuses": Table(("code:i", "name", "phrase"), [(s.value, s.name, s.phrase) for s in HTTPStatus]),
        "locales": Table(("alias", "language"), sorted(locales)),
    }


def _functions(module: str) -> Iterator[tuple[str, str, str, int, int, int]]:
    """The functions and classes a module offers, with how many parameters they take."""
    found = importlib.import_module(module)
    offered = cast("list[str]", getattr(found, "__all__", None) or [n for n in vars(found) if not n.startswith("_")])
    for name in sorted(set(offered)):
        member = getattr(found, name, None)
        if not callable(member) or getattr(member, "__module__", module) not in (module, f"_{module}", None):
            continue
        try:
            parameters = list(inspect.signature(member).parameters.values())
        except (ValueError, TypeError):
            continue
        optional = sum(p.default is not inspect.Parameter.empty for p in parameters)
        kind = "class" if inspect.isclass(member) else "function"
        yield module, name, kind, len(parameters), optional, _words(member)


def _words(member: object) -> int:
    return len((inspect.getdoc(member) or "").split())


def packages(status: Path = DPKG) -> Source:
    """The packages that Debian says are installed."""
    if not status.is_file():
        raise ConfigError(f"there is no package index at {str(status)!r}; this source needs Debian, source='python' does not")
    text = status.read_text(encoding="utf-8", errors="replace")
    return Source(f"dpkg, {status.name}", _hash(text), lambda: _package_tables(text))


def archive(lists: Path = LISTS) -> Source:
    """A sample of the packages Debian offers, from its downloaded package lists."""
    found = sorted(p for p in lists.glob("*Packages*") if p.is_file())
    if not found:
        raise ConfigError(f"there are no package lists in {str(lists)!r}; run `apt-get update`, or use source='packages'")
    version = _hash(" ".join(f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in found))
    return Source("apt-cache dumpavail", version, lambda: _package_tables(_available()))


def _available() -> str:
    try:
        done = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"apt-cache dumpavail failed ({error}); use source='packages' or source='python'") from error
    return done.stdout.decode(errors="replace")


def _package_tables(text: str) -> dict[str, Table]:
    fields = [dict(re.findall(r"^([A-Z][\w-]*): (.*)$", part, re.M)) for part in text.split("\n\n") if part.strip()]
    found = {f["Package"]: f for f in fields if "Package" in f and "Section" in f and f.get("Installed-Size", "").isdigit()}
    kept = _sample(found)
    listed = [
        (
            n,
            f["Section"].split("/")[-1],
            f.get("Priority", "optional"),
            int(f["Installed-Size"]),
            _person(f.get("Maintainer", "")),
        )
        for n, f in kept.items()
    ]
    needs = {
        (name, target)
        for name, f in kept.items()
        for kind in ("Depends", "Pre-Depends")
        for target in re.findall(r"(?:^|[,|]\s*)([a-z0-9][a-z0-9+.-]+)", f.get(kind, ""))
    }
    return {
        "packages": Table(("name", "section", "priority", "size:n", "maintainer"), sorted(listed)),
        "depends": Table(("package", "target"), sorted(needs)),
    }


def _person(text: str) -> str:
    return text.split("<")[0].strip().strip('"') or "nobody"


def iso(folder: Path = ISO) -> Source:
    """Countries, their parts, currencies, languages and scripts, from the Debian package iso-codes."""
    names = {"3166-1": "countries", "3166-2": "parts", "4217": "currencies", "639-3": "languages", "15924": "scripts"}
    files = {table: folder / f"iso_{name}.json" for name, table in names.items()}
    missing = [path.name for path in files.values() if not path.is_file()]
    if missing:
        raise ConfigError(
            f"{missing[0]!r} is not in {str(folder)!r}; install the Debian package iso-codes, or use source='python'"
        )
    texts = {table: path.read_text(encoding="utf-8") for table, path in files.items()}
    return Source("iso-codes", _hash("".join(texts.values())), lambda: _iso_tables(texts))


def _iso_tables(texts: Mapping[str, str]) -> dict[str, Table]:
    read = {table: cast("list[dict[str, str]]", next(iter(json.loads(text).values()))) for table, text in texts.items()}
    languages = _sample({row["alpha_3"]: row for row in read["languages"]})
    return {
        "countries": Table(("code", "name"), sorted((r["alpha_2"], r["name"]) for r in read["countries"])),
        "parts": Table(
            ("code", "country", "name", "kind"),
            sorted((r["code"], r["code"].split("-")[0], r["name"], r["type"]) for r in read["parts"]),
        ),
        "currencies": Table(("code", "name"), sorted((r["alpha_3"], r["name"]) for r in read["currencies"])),
        "languages": Table(
            ("code", "name", "scope", "kind"), sorted((c, r["name"], r["scope"], r["type"]) for c, r in languages.items())
        ),
        "scripts": Table(("code", "name"), sorted((r["alpha_4"], r["name"]) for r in read["scripts"])),
    }


def wordnet(folder: Path = WORDNET) -> Source:
    """Words, meanings and how meanings relate, from the Debian package wordnet-base."""
    files = [folder / f"data.{kind}" for kind in ("noun", "verb", "adj", "adv")]
    if not all(path.is_file() for path in files):
        raise ConfigError(f"WordNet is not in {str(folder)!r}; install the Debian package wordnet-base, or use source='python'")
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    return Source("wordnet-base", _hash(text), lambda: _wordnet_tables(text))


def _wordnet_tables(text: str) -> dict[str, Table]:
    """Reads the format of wndb(5): offset, file, kind, number of words (hex), words, number of pointers, pointers, gloss."""
    lines = {f"{p[2]}{p[0]}": p for p in (line.split(" ") for line in text.split("\n") if line[:1].isdigit())}
    synsets, words, relations = list[tuple[Any, ...]](), list[tuple[Any, ...]](), list[tuple[Any, ...]]()
    for key, parts in _sample(lines).items():
        count = int(parts[3], 16)
        words += [(parts[4 + 2 * i].replace("_", " "), key) for i in range(count)]
        at = 4 + 2 * count
        pointers = [parts[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(int(parts[at]))]
        relations += [(key, p[0], f"{p[2]}{p[1]}") for p in pointers]
        gloss = " ".join(parts).split(" | ", 1)[-1]
        synsets.append((key, parts[2], int(parts[1]), len(gloss.split())))
    return {
        "synsets": Table(("id", "kind", "file:i", "words:n"), sorted(synsets)),
        "words": Table(("word", "synset"), sorted(set(words))),
        "relations": Table(("source", "relation", "target"), sorted(set(relations))),
    }


def _sample(found: Mapping[str, Any]) -> dict[str, Any]:
    """At most `MOST` entries: those whose names hash lowest, so that the sample depends on nothing else."""
    kept = sorted(found, key=lambda name: blake2b(name.encode(), digest_size=8).digest())[:MOST]
    return {name: found[name] for name in kept}


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


SOURCES: dict[str, Callable[[], Source]] = {
    "python": python,
    "packages": packages,
    "archive": archive,
    "iso": iso,
    "wordnet": wordnet,
}
"""Every source by name."""
