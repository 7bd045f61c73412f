"""Damage at any place costs what it touches, is reported to the byte, and nothing is thrown away."""

import errno
import json
import logging
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from store_samples import Config, episode

from phronesis.errors import RunFolderError
from phronesis.store import Run, Stretch, codec
from phronesis.store import run as run_module
from phronesis.store.frames import MAGIC, pack, scan
from phronesis.store.lines import scan_lines

COUNT = 6
EPISODES = [episode(n, turns=2) for n in range(COUNT)]
FRAMES = [pack(codec.encode(e)) for e in EPISODES]
FILE = "episodes/train-00000.jsonl.zst"


def filled(path: Path) -> Path:
    with Run.create(path, Config()) as run:
        for n, one in enumerate(EPISODES):
            run.append(one)
            run.metrics(n, {"a/b": n + 0.5})
            run.event("phase", f"number {n}", step=n)
    return path


@st.composite
def harms(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """Changes of a file: what, where (as a share of its length) and with which bytes."""
    one = st.tuples(
        st.sampled_from(["flip", "insert", "remove", "truncate"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=20) | st.sampled_from([MAGIC, b"\n", b"}", FRAMES[0][:30]]),
    )
    return draw(st.lists(one, min_size=1, max_size=3))


def harm(content: bytes, changes: list[tuple[str, float, bytes]]) -> tuple[bytes, list[int | None]]:
    """The changed content, and for every byte of it where it came from (None: it is new)."""
    origin: list[int | None] = list(range(len(content)))
    data = bytearray(content)
    for what, share, added in changes:
        at = int(share * len(data))
        if what == "flip" and data:
            data[at] ^= added[0] or 1
            origin[at] = None
        elif what == "insert":
            data[at:at] = added
            origin[at:at] = [None] * len(added)
        elif what == "remove":
            del data[at : at + len(added)]
            del origin[at : at + len(added)]
        elif what == "truncate":
            del data[at:], origin[at:]
    return bytes(data), origin


def untouched(pieces: list[bytes], origin: list[int | None]) -> list[int]:
    """Which pieces of the original are still there in one piece."""
    kept, at = [], 0
    places = {o: i for i, o in enumerate(origin) if o is not None}
    for number, piece in enumerate(pieces):
        inside = [places.get(k) for k in range(at, at + len(piece))]
        if inside[0] is not None and inside == list(range(inside[0], inside[0] + len(piece))):
            kept.append(number)
        at += len(piece)
    return kept


def accounted(run: Run, file: str, content: bytes, readable: list[tuple[int, int]]) -> None:
    """Every byte of the file is in a readable item or in a reported stretch, and in one only."""
    seen = bytearray(len(content))
    for at, size in [*readable, *((s.offset, s.bytes) for s in run.damage().stretches if s.file == file)]:
        for k in range(at, at + size):
            seen[k] += 1
    assert set(seen) <= {1}, [k for k, n in enumerate(seen) if n != 1][:5]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(harms(), st.booleans())
def test_any_harm_to_an_episode_file(changes: list[tuple[str, float, bytes]], indexed: bool):
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        path = filled(Path(folder) / "run")
        if indexed:
            with Run.open(path) as run:
                assert len(run.rows()) == COUNT
        good = (path / FILE).read_bytes()
        assert good == b"".join(FRAMES)
        content, origin = harm(good, changes)
        (path / FILE).write_bytes(content)
        whole = untouched(FRAMES, origin)
        with Run.open(path) as run:
            read = {e.seed: e for e in run.episodes()}
            assert set(whole) <= set(read) and all(EPISODES[n] == e for n, e in read.items())
            accounted(run, FILE, content, [(f.offset, f.length) for f in scan(content).frames])
            before = run.damage()
        with Run.create(path, Config(), resume=True) as run:
            run.append(episode(99))
            ids = {e.seed for e in run.episodes()}
            assert ids == {*read, 99}
            after = run.damage()
        assert (after.bytes, after.torn) == (before.bytes, before.torn)
        assert [(s.offset, s.bytes, s.torn) for s in after.stretches] == [(s.offset, s.bytes, s.torn) for s in before.stretches]
        for stretch in after.stretches:  # kept, wherever it is now
            place, start = (path / stretch.moved, 0) if stretch.moved else (path / stretch.file, stretch.offset)
            kept = place.read_bytes()[start : start + stretch.bytes]
            assert kept == content[stretch.offset : stretch.offset + stretch.bytes]
    logging.disable(logging.NOTSET)


@settings(max_examples=150, deadline=None)
@given(harms(), st.sampled_from(["metrics.jsonl", "events.jsonl"]))
def test_any_harm_to_a_file_of_lines(changes: list[tuple[str, float, bytes]], file: str):
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        path = filled(Path(folder) / "run")
        good = (path / file).read_bytes()
        content, origin = harm(good, changes)
        (path / file).write_bytes(content)
        lines = good.splitlines(keepends=True)
        whole = untouched([line[:-1] + b"\n" for line in lines], origin)
        originals = [json.loads(line) for line in lines]
        with Run.open(path) as run:
            steps = [s.step for s in run.steps()] if file == "metrics.jsonl" else [e.step for e in run.events()]
            found = scan_lines(content)
            read = [n for n, row in enumerate(originals) if row in found.rows]
            # a line whose own bytes are whole is read, unless something was put right before it on the same line
            assert {n for n in whole if _begins_line(lines, origin, content, n)} <= set(read)
            assert set(read) <= {*steps} if file == "metrics.jsonl" else True
            assert sum(size for _, size in found.gaps) + len(content) - found.torn + _bytes_of_rows(content) >= len(content) - 1
            before = run.damage()
        with Run.create(path, Config(), resume=True) as run:
            run.metrics(50, {"a/b": 1})
            run.event("phase", "again", step=50)
            assert run.curve("a/b")[-1] == (50, 1) or max(s.step for s in run.steps()) > 50
            assert run.events()[-1].message == "again"
            after = run.damage()
        assert (after.bytes, after.torn) == (before.bytes, before.torn)
    logging.disable(logging.NOTSET)


def _begins_line(lines: list[bytes], origin: list[int | None], content: bytes, number: int) -> bool:
    at = origin.index(sum(map(len, lines[:number])))
    return at == 0 or content[at - 1 : at] == b"\n"


def _bytes_of_rows(content: bytes) -> int:
    gaps = scan_lines(content).gaps
    inside = set().union(*(range(at, at + size) for at, size in gaps)) if gaps else set()
    return sum(1 for k in range(scan_lines(content).end) if k not in inside)
