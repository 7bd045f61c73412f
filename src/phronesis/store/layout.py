"""Names and places inside a run folder. Files are the API: everything reads the same ones while training writes them.

::

    runs/<name>/
      config.toml             the resolved config; written last, so its presence makes a folder a run
      code.json               versions, commit, platform, format of the folder, when an episode counts as a success
      metrics.jsonl           one line per call of `RunWriter.metrics`
      events.jsonl            heartbeats, alarms, phases
      episodes/KIND-N.jsonl.zst   append-only; one zstd frame = one JSON line = one episode
      blobs/                  images, named by the hash of their bytes
      checkpoints/            what `--resume` continues from
      summary.json  report.html  labels.jsonl
      index.sqlite            rebuildable: delete it at any time
      .lock  .reserve         held by the writing process; space kept for its last words on a full disk
      status.json  stacks.txt  what the writing process said last (`phronesis status`)
      FILE.damaged-N FILE.torn-N   what stood at byte N of FILE and could not be read, moved aside by the next writer
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from phronesis.errors import ConfigError

FORMAT = 1
"""Version of the folder's format; a reader opens newer ones too and ignores what it does not know."""

_KIND = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class Layout:
    """The paths of one run folder. Nothing is created by asking."""

    root: Path
    """The run folder."""

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.root / "config.toml"

    @property
    def code(self) -> Path:
        """Versions and platform."""
        return self.root / "code.json"

    @property
    def metrics(self) -> Path:
        """Numbers by step."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """What happened besides numbers."""
        return self.root / "events.jsonl"

    @property
    def episodes(self) -> Path:
        """Folder of episode files."""
        return self.root / "episodes"

    @property
    def blobs(self) -> Path:
        """Folder of images."""
        return self.root / "blobs"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.root / "checkpoints"

    @property
    def summary(self) -> Path:
        """What came out."""
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.root / "report.html"

    @property
    def labels(self) -> Path:
        """Verdicts of people about episodes."""
        return self.root / "labels.jsonl"

    @property
    def index(self) -> Path:
        """The SQLite index."""
        return self.root / "index.sqlite"

    @property
    def lock(self) -> Path:
        """The file the writing process holds."""
        return self.root / ".lock"

    @property
    def reserve(self) -> Path:
        """Space kept for the last words of a run whose disk is full."""
        return self.root / ".reserve"

    @property
    def is_run(self) -> bool:
        """True when the folder holds a run."""
        return self.config.is_file()

    def episode_file(self, kind: str, number: int) -> Path:
        """File `number` of a kind.

        Raises:
            ConfigError: a kind that cannot be part of a file name.

        >>> Layout(Path("r")).episode_file("train", 3).as_posix()
        'r/episodes/train-00003.jsonl.zst'
        """
        if not _KIND.fullmatch(kind):
            raise ConfigError(f"episode kind {kind!r} must be lower-case letters, digits, '_' and '-', e.g. 'heldout'")
        return self.episodes / f"{kind}-{number:05d}.jsonl.zst"

    def episode_files(self, kind: str | None = None) -> list[Path]:
        """All episode files, by kind and number; of one kind when given."""
        found = [p for p in self.episodes.glob("*.jsonl.zst") if _split(p) is not None]
        return sorted(p for p in found if kind is None or kind_of(p) == kind)


def kind_of(path: Path) -> str:
    """The kind of episodes a file holds.

    >>> kind_of(Path("episodes/heldout-before-00003.jsonl.zst"))
    'heldout-before'
    """
    split = _split(path)
    return path.name if split is None else split[0]


def number_of(path: Path) -> int:
    """The number of an episode file within its kind."""
    split = _split(path)
    return 0 if split is None else split[1]


def _split(path: Path) -> tuple[str, int] | None:
    found = re.fullmatch(r"([a-z][a-z0-9_-]*)-(\d{5,})\.jsonl\.zst", path.name)
    return None if found is None else (found[1], int(found[2]))
