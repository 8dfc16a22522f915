"""A measured table against what its GPU was seen to do, its own KV caches, and other tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from calibrate.ceilings import (
    compare_caches,
    far_off,
    find_decodes,
    hold_against_ceiling,
    make_ceiling,
)
from calibrate.device import load_device
from calibrate.table import Provenance, Table
from calibrate.table_seen import Seen
from experiments.cli import main
from tests.latency_tables import LLAMA, decode_ns, head_ns, linear_ns, make_rows

H200 = load_device("H200")
CEILING = make_ceiling(H200, bytes_per_s=4.3e12, flop_per_s=790e12)
HERE = Provenance(source="a law", device="NVIDIA H200", licence="none")


def table_of(rows: Iterable[dict[str, object]], name: str = "law", device: str = "") -> Table:
    told = HERE if not device else Provenance(source="a law", device=device, licence="none")
    return Table.of_rows(rows, name=name, provenance=told)


def two_caches(factor: float) -> Table:
    """int8 takes so many times as long as 16 bits."""
    rows = list(make_rows())
    narrow = [
        row
        | {"kv_dtype": "int8_per_token_head", "median_ns": factor * float(str(row["median_ns"]))}
        for row in rows
        if row.get("kv_dtype")
    ]
    return table_of([*rows, *narrow])


def test_a_ceiling_is_what_was_measured_or_else_the_datasheet() -> None:
    assert (CEILING.bandwidth_bytes_per_s, CEILING.bf16_flop_per_s) == (4.3e12, 790e12)
    assert make_ceiling(H200, bytes_per_s=None, flop_per_s=None) == H200
    only = make_ceiling(H200, bytes_per_s=4e12, flop_per_s=None)
    assert (only.bandwidth_bytes_per_s, only.fp8_flop_per_s) == (4e12, H200.fp8_flop_per_s)


def test_over_the_least_time_by_hand() -> None:
    (kind,) = table_of(make_rows()).kinds().values()
    seen = {
        (each.operator, tuple(each.point.values())): each.value
        for each in hold_against_ceiling(kind, CEILING)
    }
    numbers = LLAMA.dense.layer_matrices
    assert seen["linear", (1,)] == pytest.approx(linear_ns(1) / (1e9 * 2 * numbers / 4.3e12))
    flop = 2 * numbers * 2048
    assert seen["linear", (2048,)] == pytest.approx(linear_ns(2048) / (1e9 * flop / 790e12))
    head = 1e9 * 2 * 128_256 * 4096 / 4.3e12
    assert seen["head", (1,)] == pytest.approx(head_ns(1) / head)
    cached = 1e9 * 4096 * 64 * 1024 / 4.3e12
    assert seen["attention_decode", (64, 1024)] == pytest.approx(decode_ns(64, 1024) / cached)


def test_what_is_kept_in_one_byte_is_still_computed_in_two() -> None:
    """Against a measured rate of matrices, int8 K and V have no faster one."""
    kinds = two_caches(1.0).kinds().values()
    wide, narrow = (
        {tuple(each.point.values()): each.value for each in hold_against_ceiling(kind, CEILING)}
        for kind in kinds
    )
    assert narrow[2048, 0] == pytest.approx(wide[2048, 0])
    assert narrow[64, 1024] == pytest.approx(2 * wide[64, 1024])


def test_one_decode_as_a_share_of_the_bandwidth() -> None:
    wide, narrow = find_decodes(two_caches(0.5), CEILING, batch=64, context=1024)
    assert (wide.kv_dtype, wide.moved, wide.ns) == ("bfloat16", 4096 * 65_536, decode_ns(64, 1024))
    assert wide.share == pytest.approx(4096 * 65_536 / (decode_ns(64, 1024) * 1e-9) / 4.3e12)
    assert (narrow.moved, narrow.share) == (wide.moved / 2, pytest.approx(wide.share))
    assert find_decodes(two_caches(0.5), CEILING, batch=64, context=1025) == []


def test_small_caches_over_16_bits() -> None:
    (found,) = compare_caches(two_caches(0.6))
    assert found.what == "int8_per_token_head over bfloat16"
    assert {each.operator for each in found.ratios} == {"attention_decode", "attention_prefill"}
    assert [each.value for each in found.ratios] == pytest.approx([0.6] * len(found.ratios))
    assert compare_caches(table_of(make_rows())) == []


def test_what_is_far_off_comes_farthest_first() -> None:
    seen = [Seen("head", "head", {"rows": at}, at / 10) for at in range(5, 14)]
    assert [each.value for each in far_off(seen, 0.15)] == [0.5, 0.6, 0.7, 1.3, 0.8, 1.2]


def write(table: Table, path: Path) -> str:
    table.write(path)
    return str(path)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["calibrate", "compare", *arguments])
    return done.exit_code, done.output


def test_the_command(tmp_path: Path) -> None:
    first = write(two_caches(0.6), tmp_path / "mine.parquet")
    slower = [row | {"median_ns": 1.2 * float(str(row["median_ns"]))} for row in make_rows()]
    second = write(table_of(slower), tmp_path / "theirs.parquet")
    ceilings = ["--tb-per-s", "4.3", "--tflop-per-s", "790", "--decode", "64x1024"]
    out = tmp_path / "ratios.csv"
    code, said = run(first, second, *ceilings, "--csv", str(out))
    assert code == 0, said
    assert "measured over the least time at 4.3 TB/s, 790 TFLOP/s" in said
    assert "decode of 64 x 1,024" in said
    assert "int8_per_token_head over bfloat16" in said
    points = len(list(make_rows()))
    assert f"more than 15 % off: {points} points" in said
    with out.open() as file:
        rows = list(csv.DictReader(file))
    theirs = [row for row in rows if row["comparison"].startswith("theirs.parquet over")]
    assert {float(row["ratio"]) for row in theirs} == {1.2}
    assert len(theirs) == points
    _, said = run(first, second, *ceilings, "--beyond", "25")
    assert "more than 25 % off: 0 points" in said


def test_what_cannot_be_held_against_anything(tmp_path: Path) -> None:
    mine = write(table_of(make_rows(), device="a GPU of tomorrow"), tmp_path / "mine.parquet")
    code, said = run(mine)
    assert code == 0
    assert "! a GPU of tomorrow is no shipped device: no ceilings; --device names one" in said
    code, said = run(mine, "--device", "H200")
    assert "decode of 64 x 4,096" in said
    assert "not measured" in said
    assert run(mine, "--decode", "64")[0] == 2
    assert "--decode: found '64'; allowed: 64x4096" in run(mine, "--decode", "64")[1]
