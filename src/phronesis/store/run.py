"""A run folder: written by one process, read by any number while it is written.

>>> # with Run.create(Path("runs/a"), config) as run:
>>> #     run.append(episode); run.metrics(1, {"reward/mean": 0.5})
>>> # for episode in Run.open(Path("runs/a")).episodes(Where(split="heldout", success=False)): ...
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast

import msgspec
from msgspec import Struct

from phronesis.config import config_hash, to_toml
from phronesis.errors import DiskError, RunFolderError, UnknownName
from phronesis.pictures import SHELF
from phronesis.records import Episode
from phronesis.store import codec
from phronesis.store.folder import check_folder, check_same, read_config, read_json, runs_near, write_whole
from phronesis.store.frames import AppendFile, Cut, pack, read_frame, scan, scan_file
from phronesis.store.images import ImageFolder
from phronesis.store.index import Index, Where
from phronesis.store.layout import Layout, number_of
from phronesis.store.lines import NOT_FINITE, LineFile, line_number, read_lines
from phronesis.store.lock import FolderLock, is_held
from phronesis.store.provenance import provenance, utc_now
from phronesis.store.quarantine import Stretch, moved
from phronesis.store.row import Row

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Struct)

_RESERVE_BYTES = 2**14
_AGAIN = "start it again with the same command"

ROTATE_BYTES = 64 * 2**20
"""An episode file that has reached this size is followed by a new one."""


class StepMetrics(Struct, frozen=True, kw_only=True):
    """What was measured at one step, all lines of that step merged, later ones winning."""

    step: int
    """Training step."""
    time: str
    """UTC ISO stamp of the last line."""
    values: dict[str, float | None]
    """``area/name`` -> value; None where it was not known."""


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened besides numbers: a phase, a heartbeat, an alarm."""

    time: str = ""
    """UTC ISO stamp."""
    kind: str = ""
    """``phase``, ``heartbeat``, ``alarm``, …"""
    message: str = ""
    """One sentence."""
    step: int | None = None
    """Training step; None outside training."""
    fields: dict[str, float | int | str | bool | None] = {}
    """Numbers and names that belong to it."""


class Damage(Struct, frozen=True, kw_only=True):
    """What of a run's files could not be read."""

    bytes: int
    """Bytes that belong to no readable episode, metric or event."""
    torn: int
    """Bytes of half-written last items: expected after a crash, no damage."""
    unreadable: dict[str, int]
    """Whole frames that hold no episode this version can read: reason -> how many."""
    stretches: tuple[Stretch, ...]
    """Where those bytes stood, by file and offset, and where they are now."""


class Run:
    """A run folder, for reading."""

    def __init__(self, layout: Layout):
        """Use `open` or `create`."""
        self.layout = layout
        self._index: Index | None = None

    @staticmethod
    def open(path: Path) -> Run:
        """Opens a run folder for reading, also while it is being written.

        Raises:
            RunFolderError: there is no such folder, or it holds no run.
        """
        layout = Layout(path)
        if not path.exists():
            raise RunFolderError(
                f"no run folder {str(path)!r}; {runs_near(path) or 'phronesis train RECIPE --out FOLDER makes one'}"
            )
        if not path.is_dir():
            raise RunFolderError(f"{str(path)!r} is a file, not a run folder; name the folder that holds 'config.toml'")
        if not layout.is_run:
            raise RunFolderError(
                f"{str(path)!r} is not a run folder: it has no 'config.toml'; "
                f"{runs_near(path) or 'name a folder that phronesis train wrote'}"
            )
        return Run(layout)

    @staticmethod
    def create(path: Path, config: Struct, *, resume: bool = False, success: Mapping[str, float] | None = None) -> RunWriter:
        """Starts a run folder, or continues one, for writing; only one process may.

        Args:
            path: the folder; made when missing. Without `resume` it must be missing or empty.
            config: the resolved config. With `resume` it must be the one the run was started with.
            resume: continue what is there; what cannot be read at the end of a file is moved into one beside it.
            success: environment -> reward from which an episode counts as a success (default 1.0).

        Raises:
            RunFolderError: the folder holds something else, is being written, or (resume) holds no run or another one.
        """
        return RunWriter(path, config, resume=resume, success=success or {})

    @property
    def path(self) -> Path:
        """The folder."""
        return self.layout.root

    @property
    def images(self) -> ImageFolder:
        """The pictures that its episodes show."""
        return ImageFolder(self.layout.blobs)

    @property
    def active(self) -> bool:
        """True while a process is writing it."""
        return is_held(self.layout.lock)

    def config(self) -> dict[str, object]:
        """The resolved config as plain tables; `phronesis.config.load` of `layout.config` gives the struct.

        Raises:
            RunFolderError: the file is damaged.
        """
        return read_config(self.layout)

    def code(self) -> dict[str, object]:
        """Versions, commit, platform; empty when they were not written or are damaged."""
        return read_json(self.layout.code) or {}

    def summary(self) -> dict[str, object] | None:
        """What came out; None while it is not known."""
        return read_json(self.layout.summary)

    def rows(self, where: Where | None = None) -> list[Row]:
        """Summaries of the chosen episodes: by kind, then in the order written; of equal ids in a kind only the last."""
        return self._rows_index().rows(where or Where())

    def episodes(self, where: Where | None = None) -> Iterator[Episode]:
        """The chosen episodes, one after the other; ones that cannot be read are left out and counted by `damage`."""
        for row in self.rows(where):
            episode = self.read(row)
            if episode is not None:
                yield episode

    def read(self, row: Row) -> Episode | None:
        """The episode of a row; None when its frame is not readable any more, which `damage` then counts."""
        line = read_frame(self.layout.episodes / row.file, row.offset, row.length)
        if line is None:
            logger.warning("episode %s in %s at byte %d is damaged", row.id, row.file, row.offset)
            self._rows_index().discard()  # it was whole when the index was built: look at the files again
            again = self.rows(Where(id=row.id, kind=row.kind))
            return self.read(again[0]) if again and again[0] != row else None
        return _decode(line, row.file, lambda reason: self._rows_index().note_unreadable(row, reason))

    def get(self, id: str, kind: str | None = None) -> Episode:
        """One episode; `kind` is needed only where several kinds share the id.

        Raises:
            UnknownName: there is none of that id.
            RunFolderError: it is there but cannot be read.
        """
        rows = self.rows(Where(id=id, kind=kind))
        if not rows:
            raise UnknownName("episode", id, [r.id for r in self.rows(Where(kind=kind))][:2000])
        episode = self.read(rows[-1])
        if episode is None:
            raise RunFolderError(f"episode {id!r} in {rows[-1].file!r} at byte {rows[-1].offset} is damaged")
        return episode

    def damage(self) -> Damage:
        """What of the run's files could not be read, also what a writer has moved aside; reads them."""
        aside = list(moved(self.path))
        held = {(s.file, s.offset, s.bytes) for s in aside}  # a crash between keeping and cutting off leaves both
        places = self._rows_index().damage()
        for path, valid in ((self.layout.metrics, _is_metrics), (self.layout.events, _is_event)):
            lines = read_lines(path, valid)
            places += [Stretch(file=path.name, offset=at, bytes=size) for at, size in lines.gaps]
            if (left := (path.stat().st_size if path.exists() else 0) - lines.torn) > 0:
                places.append(Stretch(file=path.name, offset=lines.torn, bytes=left, torn=True))
        active = self.active  # then a torn item is one that is being written
        still = [s for s in places if not (s.torn and active) and (s.file, s.offset, s.bytes) not in held]
        found = sorted([*aside, *still], key=lambda s: (s.file, s.offset, s.moved or ""))
        return Damage(
            bytes=sum(s.bytes for s in found if not s.torn),
            torn=sum(s.bytes for s in found if s.torn),
            unreadable=self._rows_index().unreadable(),
            stretches=tuple(found),
        )

    def follow(self, *, poll_seconds: float = 0.5, finished: Callable[[], bool] = lambda: True) -> Iterator[Episode]:
        """Episodes in the order they are written, waiting for more until `finished()` is true and nothing new is there."""
        ends: dict[str, int] = {}
        while True:
            last = finished()
            news = 0
            for path in self.layout.episode_files():
                found = scan_file(path, ends.get(path.name, 0))
                ends[path.name] = found.end
                for frame in found.frames:
                    news += 1
                    episode = _decode(frame.line, path.name)
                    if episode is not None:
                        yield episode
            if last and not news:
                return
            if not news:
                time.sleep(poll_seconds)

    def steps(self) -> list[StepMetrics]:
        """All metrics by step, in order of step."""
        merged: dict[int, StepMetrics] = {}
        for row in read_lines(self.layout.metrics, _is_metrics).rows:
            step = cast("int", row["step"])
            values = {k: _number(v) for k, v in row.items() if k not in ("step", "time")}
            before = merged[step].values if step in merged else {}
            merged[step] = StepMetrics(step=step, time=str(row.get("time", "")), values=before | values)
        return [merged[step] for step in sorted(merged)]

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of one metric where it is known."""
        return [(s.step, v) for s in self.steps() if (v := s.values.get(key)) is not None]

    def events(self) -> list[Event]:
        """Everything that happened, in order; lines this version cannot read are left out with a warning."""
        lines = read_lines(self.layout.events, _is_event)
        if lines.damaged:
            logger.warning("%d stretches of %s cannot be read", lines.damaged, self.layout.events)
        return [msgspec.convert(row, Event) for row in lines.rows]

    def close(self) -> None:
        """Closes the index."""
        if self._index is not None:
            self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _rows_index(self) -> Index:
        if self._index is None:
            bars = self.code().get("success")
            listed = cast(dict[str, object], bars) if isinstance(bars, dict) else {}
            self._index = Index(self.layout, {k: float(v) for k, v in listed.items() if isinstance(v, (int, float))})
        return self._index


class RunWriter(Run):
    """A run folder, for writing (and reading). Every write is whole or absent, whatever kills the process."""

    def __init__(self, path: Path, config: Struct, *, resume: bool, success: Mapping[str, float]):
        """Use `Run.create`."""
        super().__init__(Layout(path))
        check_folder(self.layout, resume)
        self._lock = FolderLock(self.layout.lock)
        try:
            check_folder(self.layout, resume)  # again: another process may have come first
            if resume:
                check_same(self.layout, config)
            else:
                code = provenance() | {"config_hash": config_hash(config), "success": dict(success)}
                write_whole(self.layout.code, msgspec.json.format(msgspec.json.encode(code)) + b"\n", _AGAIN)
                write_whole(self.layout.config, to_toml(config).encode(), _AGAIN)
            self._episodes: dict[str, AppendFile] = {}
            self._metrics = LineFile(self.layout.metrics)
            self._events = LineFile(self.layout.events)
            self._keep_reserve()
        except BaseException:
            self._lock.release()
            raise

    def append(self, episode: Episode, kind: str = "train") -> None:
        """Stores one episode, and before it the pictures it shows; those that are no longer in this process are named in
        an event ``pictures lost``.

        Raises:
            DiskError: the disk is full or failing; everything before is whole.
            ConfigError: a kind that cannot be part of a file name.
        """
        line = codec.encode(episode)
        if lost := self.images.take(line, SHELF):
            said = f"{len(lost)} pictures of episode {episode.id!r} could not be kept: the shelf has dropped them"
            logger.warning("%s", said)
            self.event("pictures lost", said, count=len(lost))
        frame = pack(line)
        file = self._episodes.get(kind)
        if file is None:
            last = max((number_of(p) for p in self.layout.episode_files(kind)), default=0)
            file = self._episodes[kind] = AppendFile(self.layout.episode_file(kind, last), _whole_frames)
        if file.size + len(frame) > ROTATE_BYTES and file.size > 0:
            file.close()
            file = AppendFile(self.layout.episode_file(kind, number_of(file.path) + 1), _whole_frames)
            self._episodes[kind] = file
        file.append(frame)

    def metrics(self, step: int, values: Mapping[str, float | int | bool | None]) -> None:
        """Stores numbers of one step: ``area/name`` -> value; None means not known, NaN is kept."""
        row: dict[str, object] = {"step": step, "time": utc_now()}
        self._metrics.append(row | {k: line_number(v) for k, v in values.items()})

    def event(self, kind: str, message: str, step: int | None = None, **fields: float | int | str | bool | None) -> None:
        """Stores something that happened, e.g. ``event("alarm", "no group had variance", step=7, dropped=8)``."""
        values = {k: line_number(v) if not isinstance(v, str) else v for k, v in fields.items()}
        self._events.append({"time": utc_now(), "kind": kind, "message": message, "step": step, "fields": values})

    def last_event(self, kind: str, message: str) -> None:
        """Stores what ended the run. On a full disk it takes the little space that was kept for it; where not even that
        helps, it is only logged."""
        try:
            self.event(kind, message)
        except DiskError:
            self._give_up_reserve()
            try:
                self.event(kind, message)
            except DiskError as error:
                logger.warning("what ended the run could not be stored: %s", error)

    def _keep_reserve(self) -> None:
        """Takes some space, so that a run that ends for want of it can still say so."""
        with suppress(OSError):
            self.layout.reserve.write_bytes(bytes(_RESERVE_BYTES))

    def _give_up_reserve(self) -> None:
        with suppress(OSError):
            self.layout.reserve.unlink()

    def write_summary(self, summary: Struct | Mapping[str, object]) -> None:
        """Replaces ``summary.json``, once what it sums up is on the disk. Numbers that are not finite become null."""
        self.sync()
        write_whole(self.layout.summary, msgspec.json.format(msgspec.json.encode(summary)) + b"\n")

    def sync(self) -> None:
        """Puts every episode, metric and event so far on the disk. Call it before writing what says that they are there, e.g.
        a checkpoint: without it, a process that dies loses nothing, but a power cut may take the last half minute.

        Raises:
            DiskError: the disk is full or failing.
        """
        for file in self._appended():
            file.sync()

    def _appended(self) -> list[AppendFile | LineFile]:
        return [*self._episodes.values(), self._metrics, self._events]

    def close(self) -> None:
        """Puts everything on the disk and lets other processes write.

        Raises:
            DiskError: the disk is full or failing; everything is closed all the same.
        """
        super().close()
        with ExitStack() as files:
            files.callback(self._lock.release)
            files.callback(self._give_up_reserve)
            files.callback(self._episodes.clear)
            for file in self._appended():
                files.callback(file.close)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except DiskError as late:
            if error is None:
                raise
            logger.warning("%s", late)  # the first error says more


def _whole_frames(content: bytes) -> Cut:
    found = scan(content)
    return Cut(found.end, found.torn)


def _is_metrics(row: dict[str, object]) -> bool:
    step = row.get("step")
    return isinstance(step, int) and not isinstance(step, bool)


def _is_event(row: dict[str, object]) -> bool:
    try:
        msgspec.convert(row, Event)
    except msgspec.ValidationError:
        return False
    return True


def _decode(line: bytes, file: str, note_unreadable: Callable[[str], None] = lambda reason: None) -> Episode | None:
    try:
        decoded = codec.decode(line)
    except codec.Unreadable as error:
        logger.warning("an episode in %s cannot be read: %s", file, error)
        note_unreadable(str(error))
        return None
    for note in decoded.substitutions:
        logger.warning("episode %s: %s", decoded.episode.id, note)
    return decoded.episode


def _number(value: object) -> float | None:
    if isinstance(value, str):
        return NOT_FINITE.get(value)
    return value if isinstance(value, (int, float)) else None
