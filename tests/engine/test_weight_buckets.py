from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from phronesis.engine.weights.bucket import DTYPES, Layout, load_into, pack, unpack
from phronesis.errors import ConfigError, WeightsError

NAMES = st.text(min_size=1, max_size=8)
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@st.composite
def tensors(draw):
    named = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=6)):
        dtype, shape = DTYPES[draw(st.sampled_from(sorted(DTYPES)))], draw(SHAPES)
        raw = torch.randint(
            0, 2 if dtype == torch.bool else 100, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))
        )
        named[name] = raw.to(dtype)
    return named


@settings(max_examples=80, deadline=None)
@given(
    named=tensors(),
    version=st.integers(0, 2**62),
    wrap=st.sampled_from([bytes, bytearray, memoryview]),
    more=st.integers(0, 100),
)
def test_what_is_packed_is_what_is_read(named, version, wrap, more):
    packed = pack(named, version)
    bucket = unpack(wrap(bytes(packed) + bytes(more)))
    assert bucket.version == version and list(bucket.tensors) == list(named) and bucket.nbytes == len(packed)
    for name, tensor in named.items():
        found = bucket.tensors[name]
        assert found.dtype == tensor.dtype and found.shape == tensor.shape
        assert (
            found.view(torch.uint8).tolist() == tensor.view(torch.uint8).tolist()
            if tensor.dim()
            else found.item() == tensor.item()
        )
    assert bytes(pack(named, version)) == bytes(packed), "the same weights are the same bytes"


def test_tensors_are_views_of_the_buffer():
    packed = pack({"a": torch.zeros(3), "b": torch.ones(2, 2)}, 1)
    bucket = unpack(packed)
    bucket.tensors["b"][1, 0] = 5
    assert unpack(packed, check=False).tensors["b"].tolist() == [[1, 1], [5, 1]]
    with pytest.raises(WeightsError, match="damaged"):
        unpack(packed)


def test_a_bucket_at_an_odd_address_is_read_too():
    packed = b"xyz" + bytes(pack({"a": torch.arange(5.0)}, 1))
    assert unpack(memoryview(packed)[3:]).tensors["a"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="odd address"):
        Layout({"a": torch.zeros(1)}).pack_into(memoryview(bytearray(packed))[3:], {"a": torch.zeros(1)}, 1)


def test_slices_and_transposed_tensors_are_packed_by_value():
    base = torch.arange(12.0).view(3, 4)
    bucket = unpack(pack({"t": base.T, "s": base[:, 1]}, 0))
    assert bucket.tensors["t"].equal(base.T) and bucket.tensors["s"].tolist() == [1, 5, 9]


def test_bf16_halves_floats_and_leaves_integers():
    exact, odd = torch.tensor([1.0, -2.5]), torch.tensor([1.0 + 2**-10])
    bucket = unpack(pack({"exact": exact, "odd": odd, "n": torch.tensor([7])}, 3, dtype=torch.bfloat16))
    assert bucket.tensors["exact"].dtype == torch.bfloat16 and bucket.tensors["exact"].tolist() == [1.0, -2.5]
    assert bucket.tensors["odd"].tolist() == [1.0] and bucket.tensors["n"].tolist() == [7]
    with pytest.raises(ConfigError, match="int8"):
        pack({"a": exact}, 0, dtype=torch.int8)


def damaged(change):
    packed = bytearray(pack({"w": torch.arange(6.0).view(2, 3), "b": torch.zeros(3)}, 9))
    changed = change(packed)
    return bytes(packed if changed is None else changed)


def put(at, what):
    def change(packed):
        packed[at : at + len(what)] = what

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:10], "10 bytes are no bucket"),
        (lambda p: b"", "0 bytes are no bucket"),
        (lambda p: p[:-1], "truncated"),
        (put(0, b"PK"), "begins with"),
        (put(8, struct.pack("<Q", 2**63)), "does not fit"),
        (put(8, struct.pack("<Q", 3)), "cannot be read"),
        (put(16, struct.pack("<Q", 2**63)), "no number of updates"),
        (put(16, struct.pack("<Q", 8)), "damaged"),
        (put(24, struct.pack("<Q", 64)), "does not fit"),
        (put(32, b"\1"), "damaged"),
        (lambda p: p[:-1] + b"\1", "damaged"),
        (lambda p: p.replace(b"[2,3]", b"[2,9]"), "tensors need"),
        (lambda p: p.replace(b"[2,3]", b"[3,2]"), "damaged"),
        (lambda p: p.replace(b"[2,3]", b"[-26]"), "shape"),
        (lambda p: p.replace(b'"b"', b'"w"'), "twice"),
        (lambda p: p.replace(b"float32", b"float31"), "float31"),
        (lambda p: p.replace(b'"b"', b'"\xff"'), "cannot be read"),
    ],
)
def test_what_is_damaged_is_refused(change, message):
    with pytest.raises(WeightsError, match=message):
        unpack(damaged(change))


@settings(max_examples=60, deadline=None)
@given(noise=st.binary(max_size=300), at=st.integers(0, 200))
def test_noise_is_refused_and_never_anything_else(noise, at):
    packed = bytearray(pack({"w": torch.arange(9.0)}, 9))
    before = bytes(packed)
    packed[at : at + len(noise)] = noise
    if bytes(packed) == before:
        return
    try:
        bucket = unpack(packed)
    except WeightsError:
        return
    assert bytes(packed[: len(before)]) == before, f"other bytes passed as version {bucket.version}"


@settings(max_examples=40, deadline=None)
@given(words=st.integers(1, 300_000), data=st.data())
def test_the_checksum_sees_any_one_bit_and_any_torn_write(words, data):
    old, new = torch.full((words,), 3.0), torch.full((words,), 3.5)
    before, after = bytes(pack({"w": old}, 1)), bytearray(pack({"w": new}, 2))
    bit = data.draw(st.integers(0, len(after) * 8 - 1))
    flipped = bytearray(after)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WeightsError):
        unpack(flipped)
    cut = data.draw(st.integers(0, len(after)))
    torn = bytes(after[:cut]) + before[cut:]
    if torn not in (bytes(after), before):
        with pytest.raises(WeightsError):
            unpack(torn)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))


def test_a_model_takes_a_bucket_whole_or_not_at_all():
    theirs, mine = model(), model()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(1)
    before = [p.clone() for p in mine.parameters()]
    packed = dict(theirs.named_parameters())
    for wrong, message in (
        ({**packed, "x": torch.zeros(1)}, "no parameter 'x'"),
        ({n: p for n, p in packed.items() if n != "1.bias"}, "lacks '1.bias'"),
        ({**packed, "1.bias": torch.zeros(2)}, r"\[2\] in the bucket and \[1\]"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_into(mine, unpack(pack(wrong, 1)))
        assert all(a.equal(b) for a, b in zip(before, mine.parameters(), strict=True))
    assert load_into(mine, unpack(pack(theirs.named_parameters(), 4))) == 4
    assert all(a.equal(b) for a, b in zip(theirs.parameters(), mine.parameters(), strict=True))
    some = unpack(pack({"0.bias": torch.tensor([8.0, 9.0])}, 5))
    load_into(mine, some, partial=True)
    assert mine[0].bias.tolist() == [8, 9] and mine[1].bias.equal(theirs[1].bias)


def test_a_layout_refuses_what_it_was_not_made_for():
    named = {"a": torch.zeros(2)}
    layout = Layout(named)
    room = bytearray(layout.nbytes)
    for call, message in (
        (lambda: layout.pack_into(room, {"b": torch.zeros(2)}, 0), "not the tensors"),
        (lambda: layout.pack_into(room, {"a": torch.zeros(3)}, 0), "not the tensors"),
        (lambda: layout.pack_into(room[:-1], named, 0), "the tensors need"),
        (lambda: layout.pack_into(room, named, -1), "at least 0"),
        (lambda: Layout([("a", torch.zeros(1)), ("a", torch.zeros(1))]), "same name"),
        (lambda: Layout({"a": torch.zeros(1, dtype=torch.complex64)}), "complex64"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


def test_weights_change_between_pushes_under_one_layout():
    net = model()
    layout = Layout(net.named_parameters())
    room = bytearray(layout.nbytes)
    for version in range(3):
        with torch.no_grad():
            net[0].weight.fill_(version)
        assert layout.pack_into(room, net.named_parameters(), version) == layout.nbytes
        bucket = unpack(room)
        assert bucket.version == version and bucket.tensors["0.weight"].eq(version).all()
