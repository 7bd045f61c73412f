"""From rows to tasks: which column is what, which split a row belongs to, and whether a problem lies in both.

The rule this module keeps: no problem of the held-out split can occur in training. Where the user says which rows are held
out, a problem found on both sides is an error that names both rows; where not, the content of a row decides its split.
"""

from __future__ import annotations

import inspect
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, cast

import msgspec
from msgspec import Struct

from phronesis.config.importing import import_path
from phronesis.envs.digest import digest
from phronesis.envs.rows.files import Row, read_file
from phronesis.envs.rows.folders import UNSPLIT, find_files
from phronesis.envs.tasks import TaskTable, messages_of, task_table
from phronesis.errors import ConfigError, UnknownName
from phronesis.records import Message, Task, say

log = logging.getLogger(__name__)

Equal = Literal["exact", "spacing", "words"]
"""Which rows count as the same problem: those equal as they are; but for case, white space and invisible marks; or in letters
and digits."""
Duplicates = Literal["keep", "drop", "refuse"]
"""What becomes of a problem that occurs twice in one split."""
HELDOUT = ("heldout", "test", "validation")
"""Splits of a data set that are taken for held out, in this order."""
PROBED = 200
"""Tasks of each split of an endless generator that are compared at once; the others when they are drawn."""
_FIELD = re.compile(r"\{(\w+)\}")
Check = Callable[[Mapping[str, object]], None]
"""Raises ConfigError for a row that cannot be used."""


class Source(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where rows come from and what their columns mean."""

    path: str | list[str]
    """File, folder, several files, or ``module:function``; see `read`."""
    heldout: str | list[str] | None = None
    """The same for held-out rows; None takes them from `path`."""
    config: str | None = None
    """Configuration of a repository of data sets."""
    splits: dict[str, str] = {}
    """Our split -> that of the data set, e.g. ``{train = "train", heldout = "validation"}``."""
    columns: dict[str, str] = {}
    """Our column -> that of the data, e.g. ``{prompt = "question"}``."""
    template: str | None = None
    """The prompt made from columns: ``Question: {question}``; None takes the column ``prompt``."""
    system: str | None = None
    """System message before every prompt."""
    key: tuple[str, ...] = ("prompt",)
    """Columns that make a problem what it is."""
    equal: Equal = "spacing"
    """Which rows count as the same problem."""
    duplicates: Duplicates = "keep"
    """What becomes of a problem that occurs twice in one split."""


class Rows(NamedTuple):
    """Tasks, and what was noticed about them."""

    table: TaskTable
    """For an `EnvSpec`."""
    duplicates: dict[str, int]
    """Rows by split whose problem occurs before in the split; dropped ones included."""
    columns: frozenset[str]
    """Columns of the payload that every row has; those of a generator's first task."""
    sources: str
    """What was read, for people."""


def _anything(columns: Mapping[str, object]) -> None: ...


def normal(text: str, equal: Equal) -> str:
    """A text as it is compared.

    >>> normal("What is  2 + 2?\\n", "spacing"), normal("What is  2 + 2?\\n", "words")
    ('what is 2 + 2?', 'what is 2 2')
    """
    if equal == "exact":
        return text
    visible = "".join(c for c in text if unicodedata.category(c) != "Cf")  # nor marks that nobody sees: U+200B, U+00AD
    folded = unicodedata.normalize("NFKC", visible).casefold()
    if equal == "words":
        folded = re.sub(r"[\W_]+", " ", folded)
    return " ".join(folded.split())


def content_key(columns: Mapping[str, object], key: Sequence[str], equal: Equal) -> str:
    """The hash of what makes a problem this problem; texts normalised at any depth.

    Raises:
        ConfigError: a column of the key is missing.
    """

    def plain(value: object) -> object:
        if isinstance(value, str):
            return normal(value, equal)
        if isinstance(value, list | tuple):
            return [plain(v) for v in cast("Sequence[object]", value)]
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in cast("Mapping[object, object]", value).items()}
        return value

    def canonical(column: str) -> object:
        value = columns[column]
        if column != "prompt" or isinstance(value, str):
            return msgspec.to_builtins(value)
        told = messages_of(value)  # the same conversation may be written as text, as messages, or as messages of parts
        one = len(told) == 1 and told[0].role == "user"
        return told[0].text if one else [{"role": m.role, "content": m.text} for m in told]

    missing = [c for c in key if c not in columns]
    if missing:
        raise ConfigError(f"there is no column {missing[0]!r}, which key names; the columns are {', '.join(columns)}")
    return digest(["rows", *(plain(canonical(c)) for c in key)])


def read(name: str, source: Source, check: Check = _anything) -> Rows:
    """The tasks of a source.

    `path` may name a file (``.jsonl``, ``.json``, ``.parquet``, ``.arrow``), a folder (see `folders`), several files, or a
    Python generator ``module:function``: ``f(split, index)`` gives one row, endlessly; ``f(split)`` and ``f()`` give all.

    Args:
        name: the environment's name.
        source: see `Source`.
        check: raises ConfigError for a row that cannot be used; the row's place is put before what it says.

    Raises:
        ConfigError: a file, folder or row that is wrong, by name and line; or a problem in both splits, by both rows.
        UnknownName: a split or configuration that does not exist.
    """
    endless = _endless(source.path)
    if endless is not None:
        return _generated(name, source, endless, check)
    found = _lists(source)
    made = {split: [_task(name, split, i, row, source, check) for i, row in enumerate(rows)] for split, rows in found.items()}
    if not any(made.values()):
        raise ConfigError(f"{source.path!r} holds no rows")
    places = {split: [row.place for row in rows] for split, rows in found.items()}
    _refuse_leak(made, places, source)
    counts: dict[str, int] = {}
    for split, tasks in made.items():
        made[split], counts[split or "all"] = _once(tasks, places[split], source)
    keys = [t.content_key for tasks in made.values() for t in tasks]
    if len(keys) > 1 and len(set(keys)) == 1:
        raise ConfigError(
            f"all {len(keys)} rows of {source.path!r} are one problem by the columns {', '.join(source.key)}; "
            "name the columns that tell them apart in key"
        )
    payloads = [t.payload for tasks in made.values() for t in tasks]
    columns = frozenset[str].intersection(*(frozenset(p) for p in payloads))
    table = task_table(name, made.get(UNSPLIT, made))
    return Rows(table, counts, columns, ", ".join(_names(source)))


def _names(source: Source) -> list[str]:
    given = [source.path, *([source.heldout] if source.heldout else [])]
    return [Path(p).name if ":" not in p else p for part in given for p in (part if isinstance(part, list) else [part])]


def _function(path: str | list[str]) -> Callable[..., object] | None:
    """The generator of an import path; None for files and folders."""
    if isinstance(path, list) or ":" not in path or Path(path).exists():
        return None
    found = import_path(path)
    if not callable(found):
        raise ConfigError(f"{path!r} is {type(found).__name__!r}, expected a function that gives rows")
    return found


def _arity(function: Callable[..., object]) -> int:
    parameters = inspect.signature(function).parameters.values()
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _endless(path: str | list[str]) -> Callable[[str, int], object] | None:
    function = _function(path)
    return cast("Callable[[str, int], object]", function) if function is not None and _arity(function) == 2 else None


def _lists(source: Source) -> dict[str, list[Row]]:
    """Rows by our splits; under `UNSPLIT` when their content has to decide."""
    if source.heldout is not None:
        if source.splits:
            raise ConfigError("splits chooses among the splits of path; leave it out when heldout names files")
        return {"train": _flat(source.path, source, "train"), "heldout": _flat(source.heldout, source, "heldout")}
    found = _by_split(source.path, source)
    for ours, theirs in source.splits.items():
        if theirs not in found:
            raise UnknownName(f"split of {source.path!r}", theirs, found)
        if ours not in ("train", "heldout"):
            raise UnknownName("split", ours, ("train", "heldout"))
    if set(found) == {UNSPLIT}:
        return found
    train = source.splits.get("train", "train" if "train" in found else "")
    held = source.splits.get("heldout") or next((s for s in HELDOUT if s in found and s != train), None)
    if train not in found:
        raise ConfigError(f"{source.path!r} has the splits {', '.join(found)} and none called train; set splits.train")
    if held == train:
        raise ConfigError(f"splits: train and heldout are both {train!r}, so every problem would be in both")
    return {UNSPLIT: found[train]} if held is None else {"train": found[train], "heldout": found[held]}


def _by_split(path: str | list[str], source: Source) -> dict[str, list[Row]]:
    if isinstance(path, list):
        return {UNSPLIT: [row for one in path for rows in _by_split(one, source).values() for row in rows]}
    function = _function(path)
    if function is None:
        files = find_files(Path(path), source.config)
        return {split: [row for file in found for row in read_file(file)] for split, found in files.items()}
    if _arity(function) == 0:
        return {UNSPLIT: _called(path, function)}
    return {split: _called(path, function, split) for split in ("train", "heldout")}


def _flat(path: str | list[str], source: Source, split: str) -> list[Row]:
    """All rows of a side; of a data set with splits, the side's own."""
    if isinstance(path, list):
        return [row for one in path for row in _flat(one, source, split)]
    found = _by_split(path, source)
    wanted = ("train",) if split == "train" else HELDOUT
    chosen = next((s for s in wanted if s in found), None)
    return found[chosen] if chosen is not None else [row for rows in found.values() for row in rows]


def _called(path: str, function: Callable[..., object], *split: str) -> list[Row]:
    found = function(*split)
    if not isinstance(found, Iterable) or isinstance(found, str | dict):
        raise ConfigError(f"{path!r} returned {type(cast('object', found)).__name__!r}, expected rows")
    rows: list[Row] = []
    for number, row in enumerate(islice(cast("Iterable[object]", found), 10_000_001), 1):
        if number > 10_000_000:
            raise ConfigError(f"{path!r} never stops; a generator without end is a function of (split, index)")
        where = f"{path!r}{f' ({split[0]})' if split else ''}, row {number}"
        rows.append(Row(where, _mapping(where, row)))
    return rows


def _mapping(where: str, row: object) -> dict[str, object]:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: {type(row).__name__!r}, expected columns by name")
    return {str(k): v for k, v in cast("Mapping[object, object]", row).items()}


def _task(name: str, split: str, index: int, row: Row, source: Source, check: Check) -> Task:
    """One row as a task.

    Raises:
        ConfigError: names the row and what is wrong with it.
    """
    try:
        columns = _renamed(row.columns, source.columns)
        if source.template is not None:
            columns["prompt"] = _FIELD.sub(lambda m: _shown(columns, m[1]), source.template)
        if "prompt" not in columns:
            raise ConfigError(
                f"there is no column 'prompt', only {', '.join(columns) or 'none'}; "
                'say which it is, columns = {prompt = "..."}, or make it with template'
            )
        messages = messages_of(columns["prompt"])
        if not any(m.text.strip() for m in messages):
            raise ConfigError("the prompt is empty")
        check(columns)
        key = content_key(columns, source.key, source.equal)
        payload = cast("dict[str, object]", msgspec.to_builtins({c: v for c, v in columns.items() if c != "prompt"}))
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{row.place}: {error}") from error
    opening: tuple[Message, ...] = (say("system", source.system),) if source.system else ()
    return Task(
        id=f"{split or 'row'}-{index}", env=name, messages=opening + messages, payload=payload, split=split, content_key=key
    )


def _renamed(columns: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    for ours, theirs in names.items():
        if theirs not in columns:
            raise ConfigError(f"there is no column {theirs!r} for {ours!r}; the columns are {', '.join(columns)}")
    taken = set(names.values())
    kept = {c: v for c, v in columns.items() if c not in taken}
    return kept | {ours: columns[theirs] for ours, theirs in names.items()}


def _shown(columns: Mapping[str, object], column: str) -> str:
    if column not in columns:
        raise ConfigError(f"the template wants the column {column!r}; the columns are {', '.join(columns)}")
    value = columns[column]
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _refuse_leak(made: Mapping[str, Sequence[Task]], places: Mapping[str, Sequence[str]], source: Source) -> None:
    if "heldout" not in made:
        return
    trained = {t.content_key: place for t, place in zip(reversed(made["train"]), reversed(places["train"]), strict=True)}
    both = [
        (trained[t.content_key], place, t)
        for t, place in zip(made["heldout"], places["heldout"], strict=True)
        if t.content_key in trained
    ]
    if both:
        raise _leak(both[0][0], both[0][1], both[0][2], len(both), source)


def _leak(first: str, second: str, task: Task, count: int, source: Source) -> ConfigError:
    text = next((m.text for m in task.messages if m.role == "user"), "")
    how = {"exact": "exactly", "spacing": "but for case and white space", "words": "in letters and digits"}[source.equal]
    return ConfigError(
        f"a held-out problem is trained on: {first} and {second} are the same ({how}) by the columns "
        f"{', '.join(source.key)}: {' '.join(text.split())[:80]!r}; {count} held-out rows are such. Remove one of each pair, "
        "or leave out heldout and splits: then the content of a row decides its split"
    )


def _once(tasks: list[Task], places: Sequence[str], source: Source) -> tuple[list[Task], int]:
    """The tasks of a split and how many of them occur before in it; without those when they are to be dropped."""
    first: dict[str | None, str] = {}
    kept: list[Task] = []
    shown = ""
    for task, place in zip(tasks, places, strict=True):
        if task.content_key not in first:
            first[task.content_key] = place
        elif not shown:
            shown = f"{first[task.content_key]} and {place}"
            if source.duplicates == "refuse":
                raise ConfigError(f'{shown} are the same problem; remove one of them, or set duplicates to "keep" or "drop"')
        if source.duplicates == "keep" or first[task.content_key] == place:
            kept.append(task)
    count = len(tasks) - len(first)
    if count:
        what = "dropped" if source.duplicates == "drop" else "kept"
        log.warning("%d of %d rows occur before in their split and are %s, e.g. %s", count, len(tasks), what, shown)
    return kept, count


def _generated(name: str, source: Source, function: Callable[[str, int], object], check: Check) -> Rows:
    """Tasks of an endless generator. A problem that is met in both splits is an error when it is met."""
    if source.heldout is not None or source.splits:
        raise ConfigError("a generator f(split, index) makes both splits; leave heldout and splits out")
    seen: dict[str | None, tuple[str, str]] = {}

    def task(split: str, index: int) -> Task:
        place = f"{source.path!r}({split!r}, {index})"
        made = _task(name, split, index, Row(place, _mapping(place, function(split, index))), source, check)
        other, where = seen.setdefault(made.content_key, (split, place))
        if other != split:
            raise _leak(*((where, place) if other == "train" else (place, where)), made, 1, source)
        return made

    probed = {split: [task(split, i) for i in range(PROBED)] for split in ("train", "heldout")}
    counts = {split: len(tasks) - len({t.content_key for t in tasks}) for split, tasks in probed.items()}
    columns = frozenset(probed["train"][0].payload)
    return Rows(TaskTable(task, {"train": None, "heldout": None}), counts, columns, ", ".join(_names(source)))
