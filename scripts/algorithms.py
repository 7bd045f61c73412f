"""Writes docs/algorithms.md and docs/paper-index.md from the code: `python scripts/algorithms.py [--check]`.

Every config value that names a method, and every formula with a worked case, becomes a line: what it computes and where it is
published come from docstrings, when to use it from scripts/algorithms.toml, which also names the papers. With ``--check``
nothing is written, and the exit code is 1 when a page is out of date.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import phronesis
from phronesis.conformance.tables import MODULES, formulas
from phronesis.credit import AnyBaseline, CreditConfig
from phronesis.data.order import TaskOrder
from phronesis.losses import Aggregation, AnyCorrection, AnyObjective, KLPenalty
from phronesis.reason.players.build import PlayerConfig
from phronesis.train.preference import AnyPairObjective

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path(phronesis.__file__).parent
PAGES = (ROOT / "docs" / "algorithms.md", ROOT / "docs" / "paper-index.md")

Docs = Callable[..., object] | type
"""Something with a docstring."""


class Section(NamedTuple):
    """One table of methods."""

    key: str
    """Of its uses in algorithms.toml."""
    title: str
    """Heading."""
    setting: str
    """How a config chooses one of them."""
    union: object
    """The union of its config values."""


SECTIONS = (
    Section("baseline", "Baselines of a group", 'credit.baseline.type = "rloo"', AnyBaseline),
    Section("credit", "Credit rules", 'credit.type = "gigpo"', CreditConfig),
    Section("player", "Players: how a group's attempts come about", 'player.type = "arpo"', PlayerConfig),
    Section("objective", "Objectives", 'learner.loss.objective.type = "ppo_clip"', AnyObjective),
    Section("correction", "Corrections", 'learner.loss.corrections = [{type = "tis_token"}]', AnyCorrection),
    Section("aggregation", "Aggregation", 'learner.loss.aggregation.type = "token_mean"', Aggregation),
    Section("kl", "Divergence from the reference", 'learner.loss.kl.type = "loss"', KLPenalty),
    Section("pairs", "Preferences", 'objective.type = "dpo"', AnyPairObjective),
    Section("order", "Order of tasks", 'tasks.type = "dump"', TaskOrder),
)


PIECES = {
    "divergence": "Estimators of a divergence",
    "distillation": "Distillation and preference, as functions",
    "critic": "Critics",
    "metric": "Metrics and data",
}
"""Tables of formulas by the key of their uses in algorithms.toml."""


class Place(NamedTuple):
    """Where a docstring stands."""

    file: str
    """Relative to the package."""
    name: str
    """Of the function or class; empty for the module."""
    text: str
    """The docstring."""


# ---------------------------------------------------------------------------------------------- reading docstrings


def places() -> list[Place]:
    """All docstrings of the package but those of the conformance tables, in the order of files and lines."""
    found: list[Place] = []
    for path in sorted(SOURCE.rglob("*.py")):
        file = path.relative_to(SOURCE).as_posix()
        if file.startswith("conformance/"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    found.append(Place(file, getattr(node, "name", ""), text))
    return found


def summary(text: str) -> str:
    """What a docstring says first, without sources and references.

    >>> summary("``-A * log pi`` per token.   Source: Williams 1992; formula [reinforce].")
    '``-A * log pi`` per token.'
    """
    first = text.split("\n\n")[0].replace("\n", " ")
    first = re.sub(r"\s*(?:Source: |See `|Formulas? \[|As in verl|TRL's default; \[).*", "", first)
    return re.sub(r"\s+", " ", first).strip()


def sources(text: str) -> list[str]:
    """arXiv ids in a docstring, in order, each once."""
    return list(dict.fromkeys(re.findall(r"\b\d{4}\.\d{5}\b", " ".join(re.findall(r"arXiv:? ?[^a-z]*", text)))))


def unpublished(text: str) -> list[str]:
    """What a docstring names as its sources that are no arXiv papers.

    >>> unpublished("Bounded.   Source: prime-rl; formula [tv-sym].")
    ['prime-rl']
    """
    flat = re.sub(r"\s+", " ", text)
    found = re.findall(r"Source: (.+?)(?:; |(?<!e\.g)\. |\.$|$)", flat)
    found += re.findall(r"(?<=As in )[\w -]+|TRL(?='s default)", flat)
    return [f for f in found if not re.match(r"formulas? \[", f) and "arXiv" not in f]


def helpers(value: type) -> list[Docs]:
    """What a config value's docstring refers to by ``See `name```, and the function of its module named like its tag."""
    module = sys.modules[value.__module__]
    found = [getattr(module, name, None) for name in [*referred(value), tag(value)]]
    found += [getattr(module, name, None) for f in found if f is not None for name in referred(f)]
    return [f for f in dict.fromkeys(found) if inspect.isfunction(f) or (inspect.isclass(f) and f is not value)]


def referred(value: Docs) -> list[str]:
    """The names a docstring refers to by ``See `name```."""
    said = re.findall(r"See ((?:`\w+`(?:, | and )?)+)", inspect.getdoc(value) or "")
    return re.findall(r"`(\w+)`", " ".join(said))


def tag(value: type) -> str:
    """How configs call it."""
    return str(value.__struct_config__.tag)  # type: ignore[attr-defined]


def values(section: Section) -> tuple[type, ...]:
    """The config values of a section."""
    return get_args(section.union)


# ---------------------------------------------------------------------------------------------- formulas with cases


def cases() -> dict[str, list[str]]:
    """Formula id -> what its case calls of the package, as ``module:name``, by reading the tables."""
    found: dict[str, list[str]] = {}
    for module in MODULES:
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        imported = {
            (a.asname or a.name): f"{node.module}:{a.name}"
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("phronesis.")
            for a in node.names
            if not str(node.module).startswith("phronesis.conformance")
        }
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        table = next(n for n in tree.body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == "TABLE")
        assert isinstance(table.value, ast.Dict)
        for key, case in zip(table.value.keys, table.value.values, strict=True):
            if isinstance(key, ast.Constant):
                found[str(key.value)] = list(dict.fromkeys(_called(case, functions, imported, set())))
    return found


def _called(
    node: ast.AST, functions: Mapping[str, ast.FunctionDef], imported: Mapping[str, str], seen: set[str]
) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in imported:
            yield imported[part.id]
        elif isinstance(part, ast.Name) and part.id in functions and part.id not in seen:
            seen.add(part.id)
            yield from _called(functions[part.id], functions, imported, seen)


def homes(everything: Iterable[Place], called: Mapping[str, list[str]]) -> dict[str, list[Place]]:
    """Formula id -> what computes it: those whose docstring names it, and what its case calls of a module that does.

    What the case calls comes first.
    """
    everything = list(everything)
    found: dict[str, list[Place]] = {}
    for formula in formulas():
        naming = [p for p in everything if re.search(rf"\[{re.escape(formula)}\]", p.text)]
        files = {p.file for p in naming if not p.name}
        names = {c.partition(":")[2] for c in called.get(formula, [])}
        both = [p for p in everything if p in naming or (p.file in files and p.name in names)]
        found[formula] = sorted((p for p in both if p.name), key=lambda p: p.name not in names)
    return found


# ---------------------------------------------------------------------------------------------- pages


def cell(text: str) -> str:
    """Text for a Markdown table: no bars, single backticks, quotes of the code's own markup kept.

    >>> cell("``a | b`` of `x`")
    '`a \\\\| b` of `x`'
    """
    return text.replace("``", "`").replace("|", "\\|")


def papers(texts: Iterable[str]) -> str:
    """arXiv ids as links, else the source a docstring names, else a dash."""
    texts = list(texts)
    ids = list(dict.fromkeys(i for t in texts for i in sources(t)))
    if ids:
        return ", ".join(f"[{i}](https://arxiv.org/abs/{i})" for i in ids)
    return next((cell(u) for t in texts for u in unpublished(t)), "–")


def method(value: type, use: str) -> str:
    """The line of a config value."""
    text = inspect.getdoc(value) or ""
    more = [inspect.getdoc(f) or "" for f in helpers(value)]
    module = inspect.getdoc(sys.modules[value.__module__]) or ""
    own = papers([text, *more])
    says = " ".join(dict.fromkeys(s for s in map(summary, [text, *more]) if s))
    file = f"{value.__module__.removeprefix('phronesis.').replace('.', '/')}.py"
    return f"| `{tag(value)}` | {cell(says)} | `{file}` | {own if own != '–' else papers([module])} | {cell(use)} |"


def formula_line(formula: str, home: list[Place], use: str | None = None) -> str:
    """The line of a formula with a worked case."""
    files = dict.fromkeys(p.file for p in home)
    where = "; ".join(f"`{f}`: " + ", ".join(f"`{p.name}`" for p in home if p.file == f) for f in files)
    says = summary(home[0].text) if len(home) == 1 else " ".join(f"`{p.name}`: {summary(p.text)}" for p in home)
    module = [p.text for p in places_of(home[0].file) if not p.name]
    own = papers([p.text for p in home])
    line = f"| `{formula}` | {cell(says)} | {where} | {own if own != '–' else papers(module)} |"
    return line if use is None else f"{line} {cell(use)} |"


def places_of(file: str) -> list[Place]:
    """The docstrings of one file."""
    return [p for p in _ALL if p.file == file]


_ALL = places()


def algorithms(notes: Mapping[str, Mapping[str, str]]) -> str:
    """docs/algorithms.md.

    Raises:
        SystemExit: a method has no use in algorithms.toml, or a formula no home.
    """
    lines = [
        "# Algorithms",
        "",
        "Written by `python scripts/algorithms.py` from the docstrings of the code; change those, or `scripts/algorithms.toml`",
        "for when to use what, not this page. Every line of the first tables is a value a config can name. In equations r is",
        "pi_theta / pi_old, rho is pi_old / pi_infer (learner over sampler, same weights), A the credit of a token, and sg",
        "stops the gradient. What a line calls *ours* fills a gap its source leaves open. Papers are listed in",
        "[paper-index.md](paper-index.md).",
        "",
    ]
    for section in SECTIONS:
        lines += [f"## {section.title}", "", f"`{section.setting}`", ""]
        lines += ["| tag | what it computes | file | paper | when to use |", "|---|---|---|---|---|"]
        for value in values(section):
            use = notes[section.key].get(tag(value))
            if use is None:
                raise SystemExit(f"scripts/algorithms.toml: [{section.key}] lacks a line for {tag(value)!r}")
            lines.append(method(value, use))
        lines.append("")
    home = homes(_ALL, cases())
    lost = [f for f, where in home.items() if not where]
    if lost:
        raise SystemExit(f"no docstring names the formulas {lost!r}; write `formula [id]` where they are computed")
    for key, title in PIECES.items():
        lines += [f"## {title}", "", "| id | what it computes | where | paper | when to use |", "|---|---|---|---|---|"]
        lines += [*(formula_line(f, home[f], use) for f, use in notes[key].items()), ""]
    lines += [
        "## Formulas with a worked case",
        "",
        "`python -m phronesis.conformance FILE.json` runs cases of these ids against these functions, which training and",
        "evaluation call as well.",
        "",
        "| id | what it computes | where | paper |",
        "|---|---|---|---|",
    ]
    lines += [formula_line(f, home[f]) for f in formulas()]
    return "\n".join(lines) + "\n"


def paper_index(names: Mapping[str, str]) -> str:
    """docs/paper-index.md.

    Raises:
        SystemExit: a docstring names a paper that algorithms.toml does not know.
    """
    where: dict[str, list[str]] = {}
    other: dict[str, list[str]] = {}
    for place in _ALL:
        for paper in sources(place.text):
            where.setdefault(paper, []).append(place.file)
        for source in unpublished(place.text):
            other.setdefault(source, []).append(place.file)
    if unknown := sorted(where.keys() - names.keys()):
        raise SystemExit(f"scripts/algorithms.toml: [papers] lacks {unknown!r}")
    lines = [
        "# Papers",
        "",
        "The papers the code names as sources, and where. Written by `python scripts/algorithms.py` from docstrings. What each",
        "method computes and when to use it: [algorithms.md](algorithms.md).",
        "",
        "| arXiv | name | files |",
        "|---|---|---|",
    ]
    for paper in sorted(where):
        files = ", ".join(f"`{f}`" for f in dict.fromkeys(where[paper]))
        lines.append(f"| [{paper}](https://arxiv.org/abs/{paper}) | {names[paper]} | {files} |")
    lines += ["", "## Other sources", "", "| source | files |", "|---|---|"]
    lines += [f"| {cell(s)} | {', '.join(f'`{f}`' for f in dict.fromkeys(other[s]))} |" for s in sorted(other)]
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """What both pages should hold."""
    notes = tomllib.loads((ROOT / "scripts" / "algorithms.toml").read_text(encoding="utf-8"))
    return dict(zip(PAGES, (algorithms(notes), paper_index(notes["papers"])), strict=True))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a page is out of date")
    check = parser.parse_args().check
    stale = [p for p, text in pages().items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    for page in stale:
        print(f"{page.relative_to(ROOT)} is out of date" if check else f"wrote {page.relative_to(ROOT)}")
        if not check:
            page.write_text(pages()[page], encoding="utf-8")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
