"""A run folder as the report needs it, read permissively: what is missing or broken is noted and never stops the reading.

Files read (all optional): `config.toml`, `code.json`, `metrics.jsonl`, `episodes/*.jsonl.zst`,
`summary.json`, and the newest `tokenizer.json` below the folder for the text of tokens.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from tokenizers import Tokenizer

from phronesis.records import Episode
from phronesis.store.codec import Unreadable, decode
from phronesis.store.frames import scan_file
from phronesis.store.layout import Layout, kind_of
from phronesis.store.lines import NOT_FINITE, read_lines
from phronesis.store.lock import is_held

State = Literal["empty", "running", "stopped", "finished", "failed"]
Role = Literal["before", "after", "greedy_before", "greedy_after", "swapped", "other", "train"]
"""What the episodes of one file were played for."""

MOST_TRAINING_EPISODES = 256
"""Training episodes kept (the last ones) when a run has no held-out episodes yet."""


@dataclass
class Run:
    """Everything a report shows. Values that a run did not write are None or empty."""

    folder: Path
    """Where it lies."""
    summary: Mapping[str, object] | None = None
    """`summary.json`; None while the run is in progress."""
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    """Resolved settings."""
    config_text: str | None = None
    """The same as written."""
    code: Mapping[str, object] | None = None
    """`code.json`: versions and platform."""
    active: bool = False
    """True while a process is writing the folder."""
    broke: str | None = None
    """The last failure event that no resume followed; None when there is none."""
    alarms: list[str] = field(default_factory=list[str])
    """What the run itself raised, in order, from `events.jsonl`."""
    settings: list[str] = field(default_factory=list[str])
    """What was noted about its settings when it began, from `events.jsonl`."""
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])
    """(step, value) by metric key, each step once, in order."""
    last_stamp: str | None = None
    """Time of the last metrics line; None when not written."""
    episodes: dict[Role, list[Episode]] = field(default_factory=dict[Role, list[Episode]])
    """Episodes by what they were played for."""
    decode: Callable[[int], str] | None = None
    """Text of a token id; None when no tokenizer was found."""
    notes: list[str] = field(default_factory=list[str])
    """What could not be read, for people."""

    @property
    def name(self) -> str:
        """Name of the run."""
        name = (self.summary or {}).get("name")
        return name if isinstance(name, str) and name else self.folder.resolve().name

    @property
    def failure(self) -> str | None:
        """Why the run failed; None when it did not."""
        for key in ("failure", "error"):
            found = (self.summary or {}).get(key)
            if isinstance(found, Mapping):
                return ": ".join(str(v) for v in cast(Mapping[str, object], found).values() if v is not None)
            if found:
                return str(found)
        return None if self.active or self.summary is not None else self.broke

    @property
    def success(self) -> float:
        """Reward from which an episode counts as a success: what the run wrote for its environment, else 1."""
        bars = (self.code or {}).get("success")
        played = next((e.task.env for episodes in self.episodes.values() for e in episodes), None)
        bar = cast(Mapping[str, object], bars).get(played) if isinstance(bars, Mapping) and played is not None else None
        return float(bar) if isinstance(bar, int | float) else 1.0

    @property
    def state(self) -> State:
        """Which of the designed states applies. A run without a summary that nobody writes any more has stopped."""
        if self.failure is not None:
            return "failed"
        if self.summary is not None:
            return "finished"
        if self.active:
            return "running"
        return "stopped" if self.series or self.episodes or self.config_text is not None else "empty"


def load(folder: Path) -> Run:
    """Reads a run folder. Never raises for what the folder holds."""
    run = Run(folder)
    run.config_text = _text(run, "config.toml")
    if run.config_text is not None:
        try:
            run.config = tomllib.loads(run.config_text)
        except tomllib.TOMLDecodeError as broken:
            run.notes.append(f"config.toml cannot be parsed ({broken})")
        if "\ufffd" in run.config_text:
            run.notes.append("config.toml is not UTF-8 text; what could not be read is shown as \ufffd")
    run.code = _table(run, "code.json")
    run.summary = _table(run, "summary.json")
    run.active = is_held(Layout(folder).lock)
    _metrics(run)
    _episodes(run)
    run.decode = _decoder(run)
    return run


def _text(run: Run, name: str) -> str | None:
    try:
        return (run.folder / name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as broken:
        run.notes.append(f"{name} cannot be read ({broken.strerror})")
        return None


def _table(run: Run, name: str) -> Mapping[str, object] | None:
    text = _text(run, name)
    if text is None:
        return None
    try:
        found: object = json.loads(text)
    except ValueError as broken:
        run.notes.append(f"{name} cannot be parsed ({broken})")
        return None
    if not isinstance(found, dict):
        run.notes.append(f"{name} is not an object")
        return None
    return cast(dict[str, object], found)


def _metrics(run: Run) -> None:
    """Rows hold a step and numbers, the numbers at the top or under `metrics` or `values`."""
    try:
        lines = read_lines(Layout(run.folder).metrics)
    except OSError as broken:
        run.notes.append(f"metrics.jsonl cannot be read ({broken.strerror})")
        return
    for row in lines.rows:
        _entry(run, row)
    for key, points in run.series.items():  # a step that was done again after a crash counts once, the later line winning
        series = sorted(dict(points).items())
        first = series[0][0] - 1 if key.startswith("prime/") else 0.0  # priming counts its own steps, from 1
        run.series[key] = [(x - first, y) for x, y in series]
    if lines.damaged:
        run.notes.append(f"{lines.damaged} lines of metrics.jsonl cannot be read")
    try:
        events = read_lines(Layout(run.folder).events).rows
    except OSError as broken:
        run.notes.append(f"events.jsonl cannot be read ({broken.strerror})")
        return
    for event in events:
        step = _number(event.get("step"))
        text = f"{event.get('message')}" + ("" if step is None else f" (step {step:g})")
        if event.get("kind") == "alarm":
            run.alarms.append(text)
        elif event.get("kind") == "lint":
            run.settings.append(text)
        elif event.get("kind") in ("failure", "error"):
            run.broke = text
        elif event.get("kind") == "resume":
            run.broke = None


def _entry(run: Run, entry: dict[str, object]) -> None:
    step = entry.get("step")
    stamp = entry.get("time") or entry.get("stamp") or entry.get("at")
    run.last_stamp = str(stamp) if stamp is not None else run.last_stamp
    values: dict[str, object] = dict(entry)
    for nested in ("metrics", "values"):
        inner = entry.get(nested)
        if isinstance(inner, dict):
            values |= cast(dict[str, object], inner)
    for key, value in values.items():
        number = _number(value)
        if "/" in key and number is not None:
            points = run.series.setdefault(key, [])
            at = _number(step)
            points.append((float(len(points)) if at is None else at, number))


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    return NOT_FINITE.get(value) if isinstance(value, str) else None


def role(stem: str) -> Role:
    """What the episodes of a file were played for, from the file's name.

    >>> role("heldout_before"), role("heldout-after-greedy"), role("heldout_swapped"), role("train-000012")
    ('before', 'greedy_after', 'swapped', 'train')
    """
    name = stem.lower()
    if "swap" in name:
        return "swapped"
    greedy = "greedy" in name
    if "before" in name:
        return "greedy_before" if greedy else "before"
    if "after" in name:
        return "greedy_after" if greedy else "after"
    return "other" if any(word in name for word in ("heldout", "eval", "test", "prime", "trace")) else "train"


def _episodes(run: Run) -> None:
    """Held-out episodes before and after training; while there are none, the latest training episodes."""
    files = Layout(run.folder).episode_files()
    held_out = [p for p in files if role(kind_of(p)) in ("before", "after")]
    broken = 0
    for path in held_out or [p for p in files if role(kind_of(p)) == "train"]:
        kept = run.episodes.setdefault(role(kind_of(path)), [])
        found = scan_file(path)
        broken += found.damaged > 0
        for frame in found.frames:
            try:
                kept.append(decode(frame.line).episode)
            except Unreadable:
                broken += 1
        if not held_out:
            del kept[:-MOST_TRAINING_EPISODES]
    for kind, episodes in run.episodes.items():  # the later of two with equal id, as the store does
        run.episodes[kind] = list({e.id: e for e in episodes}.values())
    if broken:
        run.notes.append(f"{broken} stretches of the episode files cannot be read")


def _decoder(run: Run) -> Callable[[int], str] | None:
    found = [p for depth in ("", "*/", "*/*/") for p in run.folder.glob(f"{depth}tokenizer.json")]
    if not found:
        return None
    try:
        tokenizer = Tokenizer.from_file(str(max(found, key=lambda p: (p.stat().st_mtime, str(p)))))
    except Exception as broken:  # the tokenizers library raises plain Exception
        run.notes.append(f"the tokenizer cannot be read ({broken})")
        return None
    known: dict[int, str] = {}

    def text(token: int) -> str:
        if token not in known:
            known[token] = tokenizer.decode([token], skip_special_tokens=False) if token >= 0 else ""
        return known[token]

    return text
