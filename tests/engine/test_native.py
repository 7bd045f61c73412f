"""The compiled step: the same numbers as PyTorch, whatever the sizes; and what happens where it cannot be built."""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phronesis.engine import native
from phronesis.engine.compute import Drawn, Eager, Inputs
from phronesis.engine.embedded import EmbeddedEngine, EngineConfig
from phronesis.engine.forward import Piece
from phronesis.engine.native import NativeCompute, build
from phronesis.engine.rows import Rows
from phronesis.errors import ConfigError
from phronesis.models.tiny import TinyModel, tiny
from phronesis.policy import SamplingParams


def model(vocab=70, dtype=torch.float32, **sizes):
    base = {"width": 32, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 16, "mlp_width": 48, "max_positions": 256}
    return tiny(TinyModel(**{**base, **sizes}, embed_std=1.0, matrix_std=0.3), vocab, 3).to(dtype)


def step(compute, prompts, params, force=-1, uniform=0.5):
    """Fills a cache with each prompt and draws the next id of every one."""
    cache, rows, count = compute.cache(), Rows(), len(prompts)
    cache.reserve(count, max(len(p) for p in prompts) + 1)
    rows.grow(count)
    lengths = np.array([len(p) for p in prompts])
    with torch.inference_mode():
        if pieces := [Piece(i, 0, tuple(p[:-1])) for i, p in enumerate(prompts) if len(p) > 1]:
            compute.fill(cache, pieces)
        for i, p in enumerate(params):
            rows.set(i, p)
            cache.show(i, len(prompts[i]) - 1)
        last = np.array([p[-1] for p in prompts])
        uniforms = np.full((count, 1), uniform, np.float32)
        inputs = Inputs(
            np.arange(count), last, lengths - 1, uniforms, np.full(count, force), lengths - 1, np.ones_like(lengths)
        )
        drawn = compute.next(cache, inputs, rows)
    assert (drawn.made == 1).all()
    return Drawn(drawn.ids[:, 0], drawn.logprobs[:, 0], drawn.entropies[:, 0], drawn.made)


@settings(max_examples=25, deadline=None)
@given(
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (6, 1)]),
    head_dim=st.sampled_from([2, 8, 16, 24, 32, 64, 128]),
    width=st.sampled_from([16, 20, 96]),
    mlp_width=st.sampled_from([8, 40, 64]),
    vocab=st.sampled_from([3, 64, 257, 700]),
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=60),
)
def test_every_size_agrees_with_pytorch(heads, head_dim, width, mlp_width, vocab, lengths):
    decoder = model(vocab, heads=heads[0], kv_heads=heads[1], head_dim=head_dim, width=width, mlp_width=mlp_width)
    source = torch.Generator().manual_seed(len(lengths))
    prompts = [torch.randint(vocab, (n,), generator=source).tolist() for n in lengths]
    params = [SamplingParams(max_tokens=1, temperature=(1.0, 0.5)[i % 2]) for i in range(len(prompts))]
    for force in (-1, vocab - 1):
        fast, slow = (step(kind(decoder), prompts, params, force) for kind in (NativeCompute, Eager))
        same = fast.ids == slow.ids
        assert same.mean() > 0.95  # a draw may fall between two rounding errors
        assert np.abs(fast.logprobs - slow.logprobs)[same].max() < 2e-4
        assert np.abs(fast.entropies - slow.entropies).max() < 2e-4


def test_a_draw_inverts_the_cumulative_distribution():
    """With all weights zero every id is as likely: the id is the uniform number times the vocabulary, rounded down."""
    decoder = model(vocab=300)
    with torch.no_grad():
        for p in decoder.parameters():
            p.zero_()
    compute = NativeCompute(decoder)
    for uniform in (1e-6, 0.1, 0.499, 0.5017, 0.9017, 1 - 1e-6):
        drawn = step(compute, [[1]], [SamplingParams(max_tokens=1)], uniform=uniform)
        assert drawn.ids[0] == int(uniform * 300)
        assert math.isclose(drawn.logprobs[0], -math.log(300), rel_tol=1e-6)
        assert math.isclose(drawn.entropies[0], math.log(300), rel_tol=1e-6)


def test_draws_follow_the_probabilities():
    decoder = model(vocab=5)
    compute = NativeCompute(decoder)
    expected = [math.exp(step(compute, [[2, 3]], [SamplingParams(max_tokens=1)], force=i).logprobs[0]) for i in range(5)]
    assert math.isclose(sum(expected), 1, rel_tol=1e-5)
    grid = [(i + 0.5) / 2000 for i in range(2000)]
    drawn = [int(step(compute, [[2, 3]], [SamplingParams(max_tokens=1)], uniform=u).ids[0]) for u in grid]
    assert drawn == sorted(drawn)
    for i in range(5):
        assert abs(drawn.count(i) / 2000 - expected[i]) <= 1 / 1000


def test_greedy_takes_the_lowest_of_equal_ids():
    decoder = model(vocab=40)
    with torch.no_grad():
        decoder.embed[7] = decoder.embed[21] = decoder.embed[3]
    want = step(Eager(decoder), [[5, 6]], [SamplingParams(max_tokens=1, temperature=0)])
    got = step(NativeCompute(decoder), [[5, 6]], [SamplingParams(max_tokens=1, temperature=0)])
    assert got.ids == want.ids and got.ids[0] not in (7, 21)


def test_extreme_logits_stay_finite():
    """Logits hundreds of nats apart: the likeliest id has probability 1, and nothing overflows."""
    decoder = model(vocab=90)
    with torch.no_grad():
        decoder.embed.mul_(300)
    drawn = step(NativeCompute(decoder), [[1, 2], [3]], [SamplingParams(max_tokens=1)] * 2)
    assert np.isfinite(drawn.logprobs).all() and np.isfinite(drawn.entropies).all() and (drawn.logprobs > -1).all()


def test_filtered_rows_do_not_disturb_their_neighbours():
    decoder = model()
    plain = [SamplingParams(max_tokens=1)] * 3
    mixed = [plain[0], SamplingParams(max_tokens=1, top_k=2, top_p=0.9), plain[2]]
    prompts = [[1, 2, 3], [4, 5], [6] * 70]
    a, b = (step(NativeCompute(decoder), prompts, params, uniform=0.97) for params in (plain, mixed))
    assert (a.logprobs[[0, 2]] == b.logprobs[[0, 2]]).all() and (a.ids[[0, 2]] == b.ids[[0, 2]]).all()
    want = step(Eager(decoder), prompts, mixed, uniform=0.97)
    assert b.ids[1] == want.ids[1] and abs(b.logprobs[1] - want.logprobs[1]) < 1e-4 and b.logprobs[1] > a.logprobs[1] - 1e-6


def test_new_weights_are_seen_after_advance():
    decoder = model()
    engine = EmbeddedEngine(decoder, EngineConfig(native=True))
    before = engine.score_many([[1, 2, 3]])
    with torch.no_grad():
        for p in decoder.parameters():
            p.mul_(1.1)
    engine.advance()
    after, fresh = engine.score_many([[1, 2, 3]]), EmbeddedEngine(decoder, EngineConfig(native=True)).score_many([[1, 2, 3]])
    assert after == fresh != before


def test_the_cache_may_grow_while_requests_run():
    decoder = model()
    engine = EmbeddedEngine(decoder, EngineConfig(native=True))

    async def go():
        first = asyncio.create_task(engine.sample([1, 2], SamplingParams(max_tokens=50, seed=1)))
        while engine.counters.decoded < 5:
            await asyncio.sleep(0)
        await engine.sample([3] * 200, SamplingParams(max_tokens=3, seed=2))
        return await first

    got = asyncio.run(go())
    alone = EmbeddedEngine(decoder, EngineConfig(native=True))
    assert got.ids == asyncio.run(alone.sample([1, 2], SamplingParams(max_tokens=50, seed=1))).ids


def test_what_cannot_run_natively_says_why(monkeypatch):
    half = model(dtype=torch.bfloat16)
    assert "bfloat16" in (native.obstacle(half) or "")
    with pytest.raises(ConfigError, match=r"native = true, but embed is torch\.bfloat16"):
        EmbeddedEngine(half, EngineConfig(native=True))
    assert EmbeddedEngine(half).arithmetic == "pytorch"
    monkeypatch.setattr("phronesis.engine.native.compute.MOST_PARAMETERS", 10)
    assert "parameters, more than 10" in (native.obstacle(model()) or "")


def test_scoring_and_growing_caches_share_scratch_memory():
    """Buffers are made when first needed; a longer score in between must not make a later, larger cache use a small one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        decoder = tiny(TinyModel(width=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_width=32, max_positions=2048), 90, 1)
        engine = EmbeddedEngine(decoder, EngineConfig(native=True))

        async def crowd(count, length):
            asked = [engine.sample([1] * length + [i], SamplingParams(max_tokens=3, seed=i)) for i in range(count)]
            return [got.ids for got in await asyncio.gather(*asked)]

        asyncio.run(crowd(40, 100))
        asyncio.run(engine.score([1] * 1500))
        asyncio.run(crowd(40, 300))
        late = asyncio.run(crowd(40, 1200))
        compute, capacity = engine._runner.compute, engine._runner._cache.capacity
        needed = compute._scratch_size(ctypes.byref(compute._model), capacity)
        assert [s.size >= needed for s in compute._scratch] == [True, True]
        engine.advance()
        assert asyncio.run(crowd(40, 1200)) == late
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("where", ["embed", "qkv", "down", "final_norm", "head row"])
def test_weights_that_are_no_numbers_do_not_look_sure(where):
    decoder = tiny(TinyModel(width=32, layers=2, heads=2, kv_heads=2, head_dim=16, mlp_width=48, tied=False), 70, 3)
    with torch.no_grad():
        part = {
            "embed": decoder.embed[5],
            "qkv": decoder.blocks[0].qkv[3],
            "down": decoder.blocks[1].down[7],
            "final_norm": decoder.final_norm,
            "head row": decoder.head[11],
        }[where]
        part.fill_(math.nan)
    for temperature in (1.0, 0.0):
        drawn = step(NativeCompute(decoder), [[5, 6, 5]], [SamplingParams(max_tokens=1, temperature=temperature)])
        assert np.isnan(drawn.logprobs).all() and np.isnan(drawn.entropies).all() and 0 <= drawn.ids[0] < 70


def test_calls_from_two_threads_take_turns():
    engine = EmbeddedEngine(model(), EngineConfig(native=True))
    sequences = [[(7 * i + t) % 70 for t in range(40)] for i in range(30)]
    want = [engine.score_many([s])[0] for s in sequences]
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(lambda s: engine.score_many([s])[0], sequences * 4))
    assert got == want * 4


@pytest.mark.parametrize("late", ["nobody", "the others", "the first"])
@pytest.mark.parametrize("mlp_width", [64, 48])
def test_a_team_goes_on_without_a_member_that_is_late(late, mlp_width, monkeypatch):
    """Of three threads some come when the others are done: they find nothing to do, and nobody has waited for them."""
    decoder = model(head_dim=16, heads=4, kv_heads=2, mlp_width=mlp_width)
    prompts = [[(5 * i + t) % 70 for t in range(3 + 9 * i)] for i in range(6)]

    async def all_of(engine):
        asked = [engine.sample(p, SamplingParams(max_tokens=30, seed=i)) for i, p in enumerate(prompts)]
        return [(c.ids, c.logprobs, c.entropies) for c in await asyncio.gather(*asked)]

    want = asyncio.run(all_of(EmbeddedEngine(decoder, EngineConfig(native=True))))
    for name in ("TEAM_PARAMETERS", "TEAM_ALONE", "TEAM_WORK", "UNFAIR"):
        monkeypatch.setattr(f"phronesis.engine.native.compute.{name}", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        engine = EmbeddedEngine(decoder, EngineConfig(native=True))
        compute, seen = engine._runner.compute, []
        inner = compute._step

        def delayed(*a):
            threads, index = a[-2:]
            seen.append((threads, index))
            if (late == "the others" and index) or (late == "the first" and not index):
                time.sleep(0.02)
            return inner(*a)

        monkeypatch.setattr(compute, "_step", delayed)
        assert asyncio.run(all_of(engine)) == want
        assert set(seen) == {(3, 0), (3, 1), (3, 2)}
    finally:
        torch.set_num_threads(before)


def test_between_two_advances_nothing_of_the_new_weights_is_seen():
    decoder = model()
    engine = EmbeddedEngine(decoder, EngineConfig(native=True))
    before = engine.score_many([[1, 2, 3]])
    with torch.no_grad():
        decoder.embed.mul_(1.5)
    assert engine.score_many([[1, 2, 3]]) == before
    engine.advance()
    assert engine.score_many([[1, 2, 3]]) != before


def test_parameters_of_another_kind_are_refused():
    decoder = model()
    engine = EmbeddedEngine(decoder, EngineConfig(native=True))
    decoder.embed = torch.nn.Parameter(torch.randn(99, 32))
    with pytest.raises(ConfigError, match="embed has another shape; make a new engine"):
        engine.advance()
    decoder.double()
    with pytest.raises(ConfigError, match=r"embed is torch\.float64, the compiled step computes in float32"):
        engine.advance()


def test_a_transposed_embedding_is_read_as_it_is():
    decoder, other = model(), model()
    other.embed = torch.nn.Parameter(decoder.embed.detach().t().contiguous().t())
    assert not other.embed.is_contiguous()
    engines = [EmbeddedEngine(d, EngineConfig(native=True)) for d in (decoder, other)]
    assert engines[0].score_many([[1, 2, 3]]) == engines[1].score_many([[1, 2, 3]])


def processors() -> list[str]:
    """Flags for processors this one can stand in for."""
    if platform.machine() != "x86_64":
        return [""]
    plain, vectors = (
        ("-mcpu=x86_64", "-mcpu=x86_64_v3") if "ziglang" in build._compiler() else ("-march=x86-64", "-mavx2 -mfma")
    )
    return [plain, vectors] if "avx2" in Path("/proc/cpuinfo").read_text() else [plain]


@pytest.mark.parametrize("flags", processors())
def test_other_processors_compute_the_same(flags, tmp_path, monkeypatch):
    """Shorter vectors take other paths through the source."""
    build.compile_step(build._compiler(), tmp_path / "step.so", flags.split())
    library = ctypes.CDLL(str(tmp_path / "step.so"))
    monkeypatch.setattr("phronesis.engine.native.compute.built", lambda: build.Built(library, ""))
    for sizes in ({}, {"head_dim": 24, "width": 20, "mlp_width": 40}, {"heads": 4, "kv_heads": 1, "head_dim": 64}):
        decoder = model(300, **sizes)
        compute = NativeCompute(decoder)
        assert compute.name == "native-8.2"
        prompts = [[(3 * i + t) % 300 for t in range(1 + 7 * i)] for i in range(20)]
        params = [SamplingParams(max_tokens=1)] * len(prompts)
        fast, slow = step(compute, prompts, params, 4), step(Eager(decoder), prompts, params, 4)
        assert np.abs(fast.logprobs - slow.logprobs).max() < 2e-4 and np.abs(fast.entropies - slow.entropies).max() < 2e-4


SNIPPET = """
import asyncio
from phronesis.engine.embedded import EmbeddedEngine
from phronesis.engine.native.build import built
from phronesis.models.tiny import TinyModel, tiny
from phronesis.policy import SamplingParams
engine = EmbeddedEngine(tiny(TinyModel(width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp_width=32), 50, 1))
print(engine.arithmetic.split("-")[0], len(asyncio.run(engine.sample([1, 2], SamplingParams(max_tokens=4))).ids), built().note)
"""


def elsewhere(folder: Path, **environment: str) -> str:
    """The snippet in a fresh process that keeps what it builds in a folder."""
    folder.mkdir(exist_ok=True)
    known = {**os.environ, "XDG_CACHE_HOME": str(folder), "TMPDIR": str(folder), **environment}
    return subprocess.run(
        [sys.executable, "-c", SNIPPET], env=known, cwd=folder, capture_output=True, text=True, check=True
    ).stdout


def test_without_a_compiler_pytorch_computes(tmp_path):
    out = elsewhere(tmp_path, CC="no-such-compiler")
    assert out.startswith("pytorch 4 no C compiler (no-such-compiler")


def test_a_compiler_that_fails_is_named_and_pytorch_computes(tmp_path):
    broken = tmp_path / "broken-cc"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0 && exit 0\necho "step.c: out of luck" >&2\nexit 1\n')
    broken.chmod(0o755)
    out = elsewhere(tmp_path / "cache", CC=str(broken))
    assert out.startswith("pytorch 4") and "failed: step.c: out of luck" in out


def test_a_compiler_with_arguments_is_understood(tmp_path):
    assert elsewhere(tmp_path, CC=shlex.join([*build._compiler(), "-pipe"])).startswith("native 4 built ")


def test_a_library_cut_short_is_built_again(tmp_path):
    first = elsewhere(tmp_path).split()[-1]
    Path(first).write_bytes(b"")
    assert elsewhere(tmp_path) == f"native 4 built {first}\n"


def test_a_folder_others_can_write_to_is_not_used(tmp_path):
    (tmp_path / "phronesis").mkdir()
    (tmp_path / "phronesis").chmod(0o777)
    out = elsewhere(tmp_path)
    assert out.startswith("native 4 built ") and f"{tmp_path}/phronesis-" in out  # the temporary folder's own


def test_without_a_home_the_temporary_folder_serves(tmp_path):
    out = elsewhere(tmp_path, XDG_CACHE_HOME="relative", HOME="")
    assert (
        out.startswith("native 4 built ")
        and f"{tmp_path}/phronesis-" in out
        and not (tmp_path / "relative" / "phronesis").exists()
    )


def test_it_is_compiled_once_and_then_found(tmp_path):
    first, second = (elsewhere(tmp_path) for _ in range(2))
    assert first.startswith("native 4 built ") and second.startswith("native 4 found ")
    assert first.split()[-1] == second.split()[-1] and str(tmp_path) in first


def test_a_cache_folder_that_cannot_be_written_is_replaced(tmp_path):
    (tmp_path / "file").write_text("")
    out = elsewhere(tmp_path / "temporary", XDG_CACHE_HOME=str(tmp_path / "file"))
    assert out.startswith("native 4 built ") and str(tmp_path / "temporary") in out
