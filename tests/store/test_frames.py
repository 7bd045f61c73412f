import errno
import os
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from phronesis.errors import RunFolderError
from phronesis.store.frames import AppendFile, Cut, frame_length, pack, read_frame, scan, scan_file, unpack

contents = st.binary(max_size=300) | st.binary(min_size=1, max_size=4).map(lambda b: b * 40_000)


@given(st.lists(contents, min_size=1, max_size=4))
def test_frames_are_found_where_they_were_put(lines: list[bytes]):
    lines = [line.replace(b"\n", b" ") for line in lines]
    packed = [pack(line) for line in lines]
    found = scan(b"".join(packed), base=100)
    assert [f.line for f in found.frames] == lines
    assert [f.length for f in found.frames] == [len(p) for p in packed]
    assert found.frames[0].offset == 100 and found.end == 100 + sum(map(len, packed)) and found.damaged == 0


@given(contents, st.integers(1, 19), st.booleans(), st.booleans())
def test_lengths_agree_with_every_kind_of_header(content: bytes, level: int, checksum: bool, sized: bool):
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=checksum, write_content_size=sized)
    frame = compressor.compress(content)
    assert frame_length(frame + b"rest", 0) == len(frame)
    assert frame_length(frame[:-1], 0) is None


def test_torn_at_every_byte():
    first, second, last = (pack(str(n).encode() * 30) for n in (1, 2, 3))
    whole = first + second
    for cut in range(len(last)):
        found = scan(whole + last[:cut])
        assert len(found.frames) == 2
        assert found.end == len(whole) and found.damaged == 0
    assert len(scan(whole + last).frames) == 3


@given(st.data())
def test_one_damaged_byte_costs_one_frame_and_is_counted(data: st.DataObject):
    packed = [pack(bytes([65 + n]) * 50 + str(n).encode()) for n in range(4)]
    victim = data.draw(st.integers(0, 3))
    at = sum(map(len, packed[:victim])) + data.draw(st.integers(0, len(packed[victim]) - 1))
    content = bytearray(b"".join(packed))
    content[at] ^= data.draw(st.integers(1, 255))
    found = scan(bytes(content))
    lines = [unpack(p) for p in packed]
    survivors = [line for n, line in enumerate(lines) if n != victim]
    assert [f.line for f in found.frames] in (survivors, lines), "other frames must not be touched"
    if len(found.frames) == 3 and victim != 3:
        assert found.damaged == len(packed[victim])


def test_standard_tools_read_the_file(tmp_path: Path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(pack(b'{"a":1}') + pack(b'{"b":2}'))
    with path.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    assert text == b'{"a":1}\n{"b":2}\n'


def test_reading_one_frame(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(pack(b"one") + pack(b"two"))
    assert read_frame(path, len(pack(b"one")), len(pack(b"two"))) == b"two"
    assert read_frame(path, 1, 5) is None
    assert read_frame(tmp_path / "absent", 0, 5) is None
    assert scan_file(tmp_path / "absent", 7).end == 7


def whole(content: bytes) -> Cut:
    found = scan(content)
    return Cut(found.end, found.torn)


def test_reopening_cuts_the_torn_tail_and_goes_on(tmp_path: Path):
    path = tmp_path / "deep" / "a"
    file = AppendFile(path, whole)
    assert file.append(pack(b"one")) == 0
    file.close()
    with path.open("ab") as torn:
        torn.write(pack(b"two")[:-3])
    file = AppendFile(path, whole)
    assert file.append(pack(b"three")) == len(pack(b"one"))
    file.close()
    assert [f.line for f in scan_file(path).frames] == [b"one", b"three"]


def test_a_full_disk_undoes_the_half_written_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a"
    file = AppendFile(path, whole)
    file.append(pack(b"one"))
    real, calls = os.write, 0

    def fails(fd: int, content: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return real(fd, content[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", fails)
    with pytest.raises(RunFolderError, match=r"cannot write '.*a': No space left on device.*free some space"):
        file.append(pack(b"two"))
    monkeypatch.setattr(os, "write", real)
    assert path.read_bytes() == pack(b"one")
    file.append(pack(b"three"))
    file.close()
    assert [f.line for f in scan_file(path).frames] == [b"one", b"three"]
