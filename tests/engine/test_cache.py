"""What slots are said to share is what they hold, whatever is placed, copied, swapped or grown."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from phronesis.engine.cache import KVCache
from phronesis.models.config import DecoderConfig

SIZES = DecoderConfig(
    architecture="qwen3", vocab_size=9, width=4, layers=2, heads=1, kv_heads=1, head_dim=2, mlp_width=4, max_positions=640
)
SLOTS, LENGTH = 5, 100


def common(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def write(cache, slot, start, ids):
    """Keys and values of each token are its id."""
    for at, token in enumerate(ids, start):
        block, within = divmod(at, cache.keys.shape[5])
        cache.keys[:, slot, :, block, :, within] = float(token)
        cache.values[:, slot, :, at] = float(token)


def read(cache, slot, count):
    keys = cache.keys[0, slot, 0].transpose(1, 2).reshape(-1, SIZES.head_dim)[:count, 0]
    assert torch.equal(keys, cache.values[1, slot, 0, :count, 1])
    return keys.tolist()


placing = st.tuples(st.integers(0, SLOTS - 1), st.integers(0, SLOTS - 1), st.integers(0, LENGTH), st.integers(0, LENGTH))


@given(blocks=st.sampled_from([None, 8, 16]), moves=st.lists(st.one_of(placing, st.tuples(*[st.integers(0, SLOTS - 1)] * 2))))
def test_shared_tokens_are_equal(blocks, moves):
    cache, fresh = KVCache(SIZES, torch.float32, torch.device("cpu"), blocks), iter(range(1, 10**6))
    cache.reserve(SLOTS, LENGTH)
    held = {slot: [] for slot in range(SLOTS)}
    for move in moves:
        if len(move) == 2:
            a, b = move
            cache.swap(a, b, max(len(held[a]), len(held[b])))
            held[a], held[b] = held[b], held[a]
        else:
            slot, source, length, total = move
            copied = min(length, len(held[source]))
            ids = held[source][:copied] + [next(fresh) for _ in range(total - copied)]
            kept = common(ids, held[slot])
            cache.place(slot, kept, source if slot != source and copied > kept else None, copied)
            if slot != source and copied > kept:
                cache.copy(source, slot, copied)
            write(cache, slot, 0, ids)
            held[slot] = ids
        for slot, ids in held.items():
            assert read(cache, slot, len(ids)) == ids
            origin, shared = int(cache.origin[slot]), int(cache.shared[slot])
            assert shared % (blocks or 64) == 0 and held[origin][:shared] == ids[:shared] and shared <= len(ids)


def test_a_group_points_at_its_first_member():
    """Four slots copied from one another in a chain read their first 32 tokens in one place; 40 tokens are 2 blocks of 16."""
    cache = KVCache(SIZES, torch.float32, torch.device("cpu"), 16)
    cache.reserve(4, 64)
    for slot in (1, 2, 3):
        cache.place(slot, 0, slot - 1, 40)
    assert cache.origin[:4].tolist() == [0, 0, 0, 0] and cache.shared[:4].tolist() == [0, 32, 32, 32]
    cache.place(0, 16, None, 16)
    assert cache.shared[:4].tolist() == [0, 16, 16, 16]
    cache.reserve(40, 64)
    assert len(cache.origin) == len(cache.shared) == cache.slots and cache.shared[3] == 16
    cache.unshare()
    assert not cache.shared.any()


def test_new_memory_is_announced_before_it_is_written_to():
    """Large pages are given only to memory that nobody has written to; what `prepare` leaves there is zeroed afterwards."""
    told: list[int] = []

    def prepare(part: torch.Tensor) -> None:
        part.fill_(float("nan"))
        told.append(part.nbytes)

    cache = KVCache(SIZES, torch.float32, torch.device("cpu"), 4, prepare)
    cache.reserve(1, 10)
    assert not cache.keys.any() and not cache.values.any()
    cache.keys.fill_(1)
    cache.values.fill_(1)
    old, before = cache.keys.numel(), len(told)
    cache.reserve(17, 100)
    assert told[before:] == [cache.keys.nbytes, cache.values.nbytes]
    assert cache.keys.sum() == cache.values.sum() == old
