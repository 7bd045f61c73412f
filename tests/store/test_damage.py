"""Damage at any place costs what it touches, is reported to the byte, and nothing is thrown away."""

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import Config, episode

from phronesis.errors import RunFolderError
from phronesis.store import Run, Stretch, codec
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


@settings(max_examples=100, deadline=None)
@given(harms(), st.booleans())
def test_any_harm_to_an_episode_file(changes: list[tuple[str, float, bytes]], indexed: bool):
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


def objects(text: str) -> list[object]:
    """The JSON objects in a text that holds nothing else but newlines."""
    found, at, decoder = [], 0, json.JSONDecoder()
    text = text.replace("\n", "")
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


@settings(max_examples=100, deadline=None)
@given(harms(), st.sampled_from(["metrics.jsonl", "events.jsonl"]))
def test_any_harm_to_a_file_of_lines(changes: list[tuple[str, float, bytes]], file: str):
    with tempfile.TemporaryDirectory() as folder:
        path = filled(Path(folder) / "run")
        good = (path / file).read_bytes()
        lines = good.splitlines(keepends=True)
        content, origin = harm(good, changes)
        (path / file).write_bytes(content)
        with Run.open(path) as run:
            steps = [s.step for s in run.steps()] if file == "metrics.jsonl" else [e.step for e in run.events()]
            assert set(untouched(lines, origin)) <= set(steps)
            before = run.damage()
        lost = {k for s in before.stretches for k in range(s.offset, s.offset + s.bytes)}
        rest = bytes(byte for k, byte in enumerate(content) if k not in lost)
        assert len(objects(rest.decode())) == len(read_rows(path, file))
        with Run.create(path, Config(), resume=True) as run:
            run.metrics(50, {"a/b": 1})
            run.event("phase", "again", step=50)
            assert (50, 1) in run.curve("a/b") and run.events()[-1].message == "again"
            after = run.damage()
        assert [(s.file, s.offset, s.bytes) for s in after.stretches] == [(s.file, s.offset, s.bytes) for s in before.stretches]
        for stretch in after.stretches:
            place, start = (path / stretch.moved, 0) if stretch.moved else (path / stretch.file, stretch.offset)
            kept = place.read_bytes()[start : start + stretch.bytes]
            assert kept == content[stretch.offset : stretch.offset + stretch.bytes]


def read_rows(path: Path, file: str) -> list[object]:
    with Run.open(path) as run:
        return list(run.events()) if file == "events.jsonl" else metric_lines(path)


def metric_lines(path: Path) -> list[object]:
    return list(scan_lines((path / "metrics.jsonl").read_bytes(), lambda row: type(row.get("step")) is int).rows)


GARBAGE = bytes(range(11, 200)) * 3


def test_a_file_of_nothing_but_garbage_is_kept_reported_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = filled(tmp_path / "run")
    for file in (FILE, "metrics.jsonl", "events.jsonl"):
        (path / file).write_bytes(GARBAGE)
    with Run.open(path) as run:
        assert list(run.episodes()) == run.steps() == run.events() == []
        assert run.damage().bytes == 3 * len(GARBAGE) and run.damage().torn == 0
        assert {(s.file, s.offset, s.moved) for s in run.damage().stretches if s.file != "metrics.jsonl"} >= {(FILE, 0, None)}
    with Run.create(path, Config(), resume=True) as run:
        run.append(episode(7))
        run.metrics(1, {"a/b": 1})
        run.event("phase", "on")
        assert list(run.episodes()) == [episode(7)] and run.curve("a/b") == [(1, 1)] and len(run.events()) == 1
        damage = run.damage()
    size = len(GARBAGE)
    assert damage.bytes == 3 * size
    assert Stretch(file=FILE, offset=0, bytes=size, moved=f"{FILE}.damaged-0") in damage.stretches
    assert (path / f"{FILE}.damaged-0").read_bytes() == GARBAGE
    assert (path / "metrics.jsonl.damaged-0").exists() and (path / "events.jsonl.damaged-0").exists()
    assert f"{size} bytes of {path / FILE} from byte 0 cannot be read" in caplog.text


def test_garbage_in_the_middle_stays_where_it_is_and_the_end_is_moved(tmp_path: Path):
    path = filled(tmp_path / "run")
    head, tail = b"".join(FRAMES[:2]), b"".join(FRAMES[2:])
    (path / FILE).write_bytes(head + GARBAGE + tail + b"junk" + FRAMES[0][:-3])
    middle = Stretch(file=FILE, offset=len(head), bytes=len(GARBAGE))
    end = len(head + GARBAGE + tail)
    for _ in range(2):
        with Run.create(path, Config(), resume=True) as run:
            run.append(episode(99))
            assert [e.seed for e in run.episodes()] == [0, 1, 2, 3, 4, 5, 99]
            assert run.damage().stretches == (
                middle,
                Stretch(file=FILE, offset=end, bytes=4, moved=f"{FILE}.damaged-{end}"),
                Stretch(file=FILE, offset=end + 4, bytes=len(FRAMES[0]) - 3, torn=True, moved=f"{FILE}.torn-{end + 4}"),
            )
            assert run.damage().bytes == len(GARBAGE) + 4 and run.damage().torn == len(FRAMES[0]) - 3


def test_a_torn_item_is_reported_once_nobody_writes_it(tmp_path: Path):
    path = tmp_path / "run"
    with Run.create(path, Config()) as run:
        run.append(EPISODES[0])
        with (path / FILE).open("ab") as file:
            file.write(FRAMES[1][:20])
        with (path / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step":1,"a')
        assert run.damage().stretches == ()
    with Run.open(path) as run:
        assert run.damage().stretches == (
            Stretch(file=FILE, offset=len(FRAMES[0]), bytes=20, torn=True),
            Stretch(file="metrics.jsonl", offset=0, bytes=12, torn=True),
        )
        assert run.damage().bytes == 0 and run.damage().torn == 32


def test_the_same_place_damaged_twice_is_kept_twice(tmp_path: Path):
    path = filled(tmp_path / "run")
    for junk in (b"first", b"second", b"first"):
        (path / "metrics.jsonl").write_bytes(junk)
        Run.create(path, Config(), resume=True).close()
    kept = {p.name: p.read_bytes() for p in path.glob("metrics.jsonl.*")}
    assert kept == {"metrics.jsonl.damaged-0": b"first", "metrics.jsonl.damaged-0-2": b"second"}
    with Run.open(path) as run:
        assert [(s.bytes, s.moved) for s in run.damage().stretches] == [
            (5, "metrics.jsonl.damaged-0"),
            (6, "metrics.jsonl.damaged-0-2"),
        ]


@pytest.mark.parametrize("failing", ["fsync", "rename", "ftruncate"])
def test_a_crash_while_moving_aside_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str):
    path = filled(tmp_path / "run")
    good = (path / "metrics.jsonl").read_bytes()
    (path / "metrics.jsonl").write_bytes(good + b"junk")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        lock_truncates = os.ftruncate
        patch.setattr(os, failing, full if failing != "ftruncate" else lambda fd, n: full() if n else lock_truncates(fd, n))
        with pytest.raises(RunFolderError, match=r"'.*metrics\.jsonl': No space left .* nothing written before is lost"):
            Run.create(path, Config(), resume=True)
    assert (path / "metrics.jsonl").read_bytes() == good + b"junk"
    with Run.open(path) as run:
        assert run.damage().bytes == 4, "counted once, also while it is in two places"
    with Run.create(path, Config(), resume=True) as run:
        assert len(run.steps()) == COUNT and run.damage().bytes == 4
    assert (path / "metrics.jsonl").read_bytes() == good
    assert (path / f"metrics.jsonl.damaged-{len(good)}").read_bytes() == b"junk"


def test_a_frame_that_breaks_after_it_was_indexed_is_counted(tmp_path: Path):
    path = filled(tmp_path / "run")
    with Run.open(path) as run:
        rows = run.rows()
        content = bytearray((path / FILE).read_bytes())
        content[rows[2].offset + rows[2].length // 2] ^= 0xFF
        before = (path / FILE).stat()
        (path / FILE).write_bytes(content)
        os.utime(path / FILE, ns=(before.st_atime_ns, before.st_mtime_ns))  # nothing to be seen from outside
        assert run.damage().bytes == 0
        assert run.read(rows[2]) is None and run.read(rows[3]) == EPISODES[3]
        assert run.damage().bytes == rows[2].length
        assert [r.id for r in run.rows()] == [r.id for r in rows if r != rows[2]]


def test_an_episode_whose_row_can_be_made_but_which_cannot_be_read_is_counted(tmp_path: Path):
    path = filled(tmp_path / "run")
    table = json.loads(codec.encode(episode(70)))
    table["seed"] = "not a number"
    with (path / FILE).open("ab") as file:
        file.write(pack(json.dumps(table).encode()))
    with Run.open(path) as run:
        for _ in range(2):
            assert len(list(run.episodes())) == COUNT
        (reason, count), *more = run.damage().unreadable.items()
        assert count == 1 and not more and "seed" in reason
        assert run.damage().bytes == 0


def test_sizes_that_ask_for_all_memory_are_damage():
    """A damaged header can claim exabytes; the frame is skipped."""
    header = MAGIC + bytes([0b11100100]) + (2**60).to_bytes(8, "little")
    liar = header + (1 | 3 << 3).to_bytes(3, "little") + b"abc" + b"\0\0\0\0"
    found = scan(liar + FRAMES[0])
    assert [f.offset for f in found.frames] == [len(liar)] and found.gaps == [(0, len(liar))]


def test_a_frame_without_checksum_is_not_trusted():
    frame = bytearray(FRAMES[0])
    frame[4] &= ~4
    assert scan(bytes(frame[:-4]) + FRAMES[1]).gaps == [(0, len(frame) - 4)]


def test_a_damaged_config_is_told_on_resuming(tmp_path: Path):
    path = filled(tmp_path / "run")
    (path / "config.toml").write_bytes(b"\xff = [")
    with pytest.raises(RunFolderError, match=r"config\.toml' is damaged .* restore it from a copy"):
        Run.create(path, Config(), resume=True)
