"""Our Triton kernels: run by Triton's interpreter against fp64, and compiled for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calibrate.kernels.cases import DECODES, Spans, make_case
from calibrate.kernels.face import Attend, Unsupported
from calibrate.kernels.pool import FP8, INT8, KVPool
from calibrate.kernels.rows import Rows
from calibrate.kernels.torch_cache import as_bytes

pytest.importorskip("triton", reason="Triton exists for Linux only")

from calibrate.kernels import triton_compile
from calibrate.kernels.triton_attention import (
    _queries_at_once,
    _splits,
    _work,
    attention,
    choose,
    prepare,
    variants,
)

SMALL: Spans = [(37, 1), (0, 5), (0, 0), (66, 4), (0, 1)]


@pytest.mark.parametrize(
    ("format", "dtype"),
    [
        *product(("float32", INT8, FP8), (torch.float32,)),
        *product(("bfloat16", INT8, FP8), (torch.bfloat16,)),
        *product(("float16", INT8), (torch.float16,)),
    ],
)
def test_formats(format: str, dtype: torch.dtype) -> None:
    make_case(format, dtype, SMALL, kv_heads=1).check(attention)


@pytest.mark.parametrize(("queries", "splits"), [(1, 1), (3, 2), (16, 4)])
def test_however_the_work_is_cut(queries: int, splits: int) -> None:
    case = make_case("float32", torch.float32, [(150, 1), (3, 5), (0, 1)], kv_heads=1)
    case.check(
        lambda rows, pool, *, heads: prepare(
            rows, pool, heads=heads, queries=queries, splits=splits
        )
    )


def test_programs_with_most_keys_start_first() -> None:
    rows = Rows.of([(0, 3), (9, 1), (0, 0), (1, 6)], [[1], [2], [], [3]], block_size=16)
    # Keys seen by the first token of each: 9, 5 (row 3 from 4), 2, 1, 1 ...
    assert _work(rows, 4).tolist() == [[1, 0], [3, 4], [3, 0], [0, 0]]


def test_decodes_fill_16_rows_and_chunks_128() -> None:
    assert [_queries_at_once(n, 4, most=128) for n in (1, 4, 5, 16, 4096)] == [4, 4, 8, 16, 32]
    assert [_queries_at_once(n, 5, most=128) for n in (1, 4096)] == [3, 25]
    assert _queries_at_once(1, 200, most=64) == 1


def test_keys_are_split_until_every_multiprocessor_has_two_programs() -> None:
    assert _splits(8, 32_768, 132) == 32
    assert _splits(512, 32_768, 132) == 1
    assert _splits(8, 1_000, 132) == 2, "256 keys at least to a split"
    assert _splits(1, 131_072, 132) == 64
    assert _splits(0, 0, 132) == 1


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 300)), min_size=1, max_size=6),
    st.sampled_from([(8, 8), (32, 8), (5, 1), (256, 2)]),
    st.sampled_from([64, 128, 256]),
    st.sampled_from([1, 8, 132]),
)
def test_every_step_has_a_variant_that_is_compiled_ahead(
    spans: Spans, heads: tuple[int, int], size: int, processors: int
) -> None:
    """Half of them decodes alone."""
    count, kv_heads = heads
    needed = [-(-(before + n) // 16) for before, n in spans]
    pool = KVPool.empty(
        "bfloat16",
        layers=1,
        blocks=sum(needed),
        block_size=16,
        kv_heads=kv_heads,
        head_size=size,
        device="meta",
    )
    rows = Rows.of(spans, [range(blocks) for blocks in needed], block_size=16)
    chosen = choose(rows, pool, heads=count, processors=processors)
    assert chosen in variants(pool, count, processors=processors)


def test_no_more_variants_than_a_minute_compiles() -> None:
    sizes = {"layers": 1, "blocks": 50_000, "block_size": 16, "kv_heads": 8, "head_size": 128}
    pool = KVPool.empty("bfloat16", **sizes, device="meta")
    assert len(variants(pool, 32, processors=132)) == 4 * 6


def test_compiling_ahead_launches_every_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[tuple[int, int]] = []

    def noting(rows: Rows, pool: KVPool, *, heads: int, queries: int, splits: int) -> Attend:
        launched.append((queries, splits))
        return prepare(rows, pool, heads=heads, queries=queries, splits=splits)

    class Compiler:
        knobs = SimpleNamespace(runtime=SimpleNamespace(interpret=False))

    pool = make_case("bfloat16", torch.bfloat16, DECODES, heads=4, kv_heads=2).pool
    before = [as_bytes(tensor).clone() for tensor in pool.tensors]
    monkeypatch.setattr(triton_compile, "prepare", noting)
    triton_compile.compile_kernels(pool, 4, torch.bfloat16)
    assert launched == [], "nothing is compiled where Triton interprets"
    monkeypatch.setattr(triton_compile, "triton", Compiler)
    monkeypatch.setattr(triton_compile, "count_processors", lambda _: 8)
    triton_compile.compile_kernels(pool, 4, torch.bfloat16)
    assert launched == variants(pool, 4, processors=8)
    assert len(launched) == 4
    for tensor, was in zip(pool.tensors, before, strict=True):
        assert torch.equal(as_bytes(tensor).view(torch.uint8), was.view(torch.uint8))


def test_no_rows() -> None:
    make_case("float32", torch.float32, []).check(attention)


def test_a_cpu_is_refused_where_nothing_interprets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    case = make_case("float32", torch.float32, DECODES)
    with pytest.raises(Unsupported, match="Triton compiles for CUDA; this pool is on cpu"):
        attention(case.rows, case.pool, heads=4)


def test_all_kernels_compile_for_hopper(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.compile_kernels"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shared = [int(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(shared) == 10
    assert max(shared) <= 227 * 1024
