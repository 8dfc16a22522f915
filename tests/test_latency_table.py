"""The table as a file: what it keeps, and what is refused and how."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calibrate.model import load_model
from calibrate.table import Provenance, Table, read_table
from calibrate.table_schema import COLUMNS, OPERATORS, TableError
from tests.latency_tables import LLAMA, TOLD, make_rows, make_table

FULL = Provenance(
    source="a law",
    device="no GPU",
    licence="none",
    date="2026-01-02",
    versions={"driver": "1"},
    settings={"seed": 7},
    notes=("one", "two"),
    skew={"decode": ((2, 0.25), (8, 0.5))},
    tail={"at_once": 47.0, "share": 0.1},
    query_blocks={"bfloat16": 64},
    tile=16,
    chunks_apart=True,
    factors={"linear": 1.25},
    step_ns=12.5,
    residuals={"p50": 0.01},
)


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = make_table(told=FULL, mixed=True)
    table.write(tmp_path / "t.parquet")
    again = read_table(tmp_path / "t.parquet")
    assert again.points.equals(table.points)
    assert again.provenance == FULL
    assert again.fingerprint() == table.fingerprint()


def test_a_fingerprint_covers_points_and_provenance() -> None:
    prints = {
        make_table().fingerprint(),
        make_table({"median_ns": 1008.0}).fingerprint(),
        make_table(told=FULL).fingerprint(),
    }
    assert len(prints) == 3


def test_points_by_operator_and_variant() -> None:
    table = make_table({"variant": "norm"})
    one, others = table.of("linear")
    assert (one.variant, one.calls, one.axes["tokens"].tolist()) == (
        "linear",
        32,
        [16, 64, 256, 1024, 2048],
    )
    assert (others.variant, others.ns.tolist()) == ("norm", [1007.0])
    assert table.of("allreduce") == []


def test_points_kept_aside_are_not_interpolated_from() -> None:
    table = make_table({"split": "check"})
    (fit,), (check,) = table.of("linear"), table.of("linear", split="check")
    assert 1 not in fit.axes["tokens"]
    assert check.axes["tokens"].tolist() == [1]


def test_select_takes_one_kind_and_what_belongs_to_all() -> None:
    rows = [*make_rows(), *make_rows(dtype="fp8"), *make_rows(tp=2)]
    fp8 = [
        {**row, "kv_dtype": "fp8", "median_ns": 1.0}
        for row in make_rows()
        if row["operator"] == "attention_decode"
    ]
    table = Table.of_rows([*rows, *fp8], name="law", provenance=TOLD)
    chosen = table.select(LLAMA, dtype="bfloat16", kv_dtype="fp8_e4m3")
    assert set(chosen.points["operator"].to_pylist()) == {"linear", "head", "attention_decode"}
    assert set(chosen.of("attention_decode")[0].ns) == {1.0}
    assert len(table.select(LLAMA, tensor_parallel_size=2).points) == len(make_table().points)
    assert len(table.kinds()) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"model": load_model("Qwen3-8B")},
        {"tensor_parallel_size": 2},
        {"dtype": "fp8"},
        {"kv_dtype": "int8_per_token_head"},
    ],
)
def test_what_a_table_does_not_hold(options: dict[str, object]) -> None:
    with pytest.raises(
        TableError,
        match=r"law: found no points.*allowed: Llama-3.1-8B, tensor_parallel_size 1, dtype"
        r" bfloat16, kv_cache_dtype bfloat16$",
    ):
        make_table().select(**{"model": LLAMA, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operator": "magic"}, "row 0: found operator = 'magic'; allowed: linear, head"),
        ({"median_ns": 0.0}, r"row 0: found median_ns = 0.0; allowed: above 0"),
        ({"median_ns": float("nan")}, "row 0: found no median_ns"),
        ({"median_ns": float("inf")}, "row 0: found median_ns = inf"),
        ({"tokens": 0}, "row 0: found tokens = 0.*; allowed: 1 or more"),
        ({"tokens": 2**41}, "row 0: found tokens = 2199023255552; allowed: .* up to 1,099,511,"),
        ({"tokens": None}, "row 0: found no tokens; allowed: a value in a row of linear"),
        ({"blocks": 3}, "row 0: found blocks in a row of linear; allowed: null there"),
        ({"calls": 0}, "row 0: found calls = 0; allowed: 1 or more"),
        ({"calls": 7}, "row 0: found several numbers of calls; allowed: one"),
        ({"split": "maybe"}, "row 0: found split = 'maybe'; allowed: fit, check"),
        ({"tokens": 16}, "row 1: found the same point again; allowed: each point once"),
    ],
)
def test_points_that_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(TableError, match=f"law: {message}"):
        make_table(change)


def test_no_points_are_no_table() -> None:
    with pytest.raises(TableError, match="law: found no points"):
        Table.of_rows([], name="law", provenance=TOLD)


def refusal(path: Path) -> str:
    with pytest.raises(TableError) as refused:
        read_table(path)
    return str(refused.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    assert "found no such file" in refusal(tmp_path / "none.parquet")
    assert "found a folder" in refusal(tmp_path)
    text = tmp_path / "text.parquet"
    text.write_text("operator,median_ns\n")
    assert "cannot be read as parquet" in refusal(text)
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"a": [1]}), foreign)
    assert "a parquet file that is no latency table (columns a, ...)" in refusal(foreign)


def altered(path: Path, *, metadata: str | None = None, drop: str | None = None) -> Path:
    table = make_table()
    table.write(path)
    points = pq.read_table(path)
    if drop is not None:
        points = points.drop_columns([drop])
    if metadata is not None:
        points = points.replace_schema_metadata({b"pagesim.latency_table": metadata})
    pq.write_table(points, path)
    return path


def test_tables_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    assert "found table format 99; allowed: 2" in refusal(altered(path, metadata='{"format": 99}'))
    assert "its provenance is damaged" in refusal(altered(path, metadata="{"))
    assert "its provenance is damaged" in refusal(altered(path, metadata='{"format": 2}'))
    assert "column tokens: found none; allowed: int64" in refusal(altered(path, drop="tokens"))
    altered(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be read as parquet" in refusal(path)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"factors": {"linear": float("inf")}}, "no finite numbers"),
        ({"factors": {"linear": "x"}}, "no finite numbers"),
        ({"factors": [1]}, "factors are no mapping"),
        ({"skew": {"decode": ((2, float("nan")),)}}, "no finite numbers"),
        ({"step_ns": float("inf")}, "no finite numbers"),
        ({"tail": {"at_once": 1.0}}, "tail has other keys than at_once and share, or .* below 0"),
        ({"tail": {"at_once": 1.0, "share": -1.0}}, "tail has other keys than .* or one below 0"),
        ({"skew": {"mixed": ((4, 1.0), (2, 1.0))}}, "skew is not by rising numbers of decodes"),
        ({"skew": {"mixed": ((0, 1.0),)}}, "skew is not by rising numbers of decodes"),
        ({"tile": 0}, "tile or query_blocks are no whole numbers above 0"),
        ({"query_blocks": {"fp8": 0.5}}, "tile or query_blocks are no whole numbers above 0"),
        ({"chunks_apart": 1}, "chunks_apart is neither true nor false"),
        ({"notes": (1,)}, "notes are no texts"),
        ({"device": None}, "device is no text"),
    ],
)
def test_a_provenance_of_other_kinds(tmp_path: Path, told: dict[str, Any], message: str) -> None:
    path = tmp_path / "t.parquet"
    replace(make_table(), provenance=replace(TOLD, **told)).write(path)
    assert re.search(rf"its provenance is damaged \(.*{message}\)$", refusal(path))


def test_the_reference_lists_every_column_and_operator() -> None:
    docs = Path(__file__).parents[1] / "docs"
    page = (docs / "reference" / "latency-table.md").read_text(encoding="utf-8")
    for name, column in COLUMNS.items():
        null = "no" if column.required else "yes"
        assert f"| `{name}` | {column.type} | {null} | {column.meaning} |" in page
    for name, operator in OPERATORS.items():
        axes = ", ".join(f"`{axis}`" for axis in operator.axes)
        assert f"| `{name}` | {axes} | {operator.meaning} |" in page
