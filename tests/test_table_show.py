"""Latency tables looked at: coverage, spread, share of the peak, two tables point by point."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from calibrate.device import load_device
from calibrate.model import load_model
from calibrate.table import Provenance, Table
from calibrate.table_compare import compare, explain_nothing
from calibrate.table_coverage import coverage_of
from calibrate.table_peak import Peak, device_of, share_of_peak
from calibrate.table_seen import Seen, say_point, size_of, summarise
from calibrate.table_spread import spread_of
from experiments.cli import main
from experiments.table_commands import main as shown
from experiments.table_figure import whole_of
from tests.latency_tables import LLAMA, TOLD, make_rows, make_table

H200 = load_device("H200")
HERE = Provenance(source="a law", device="NVIDIA H200", licence="none")


def table_of(rows: Iterable[dict[str, object]], name: str = "law") -> Table:
    return Table.of_rows(rows, name=name, provenance=TOLD)


def scaled(factor: float, **only: object) -> Table:
    """The law's table; points with these columns take so many times as long."""
    rows = list(make_rows())
    for row in rows:
        if only.items() <= row.items():
            row["median_ns"] *= factor  # type: ignore[operator]
    return table_of(rows, "scaled")


def test_holes_between_points_and_beyond_them() -> None:
    rows = [
        row
        for row in make_rows()
        if (row.get("batch"), row.get("context")) not in {(4, 256), (64, 8192), (64, 1024)}
    ]
    covered = {each.operator: each for each in coverage_of(table_of(rows))}
    decode = covered["attention_decode"]
    assert (decode.points, decode.holes, decode.beyond) == (13, 1, 2)
    assert decode.ranges == {"batch": (1, 64), "context": (16, 8192)}
    assert (covered["linear"].points, covered["linear"].holes, covered["linear"].beyond) == (
        6,
        0,
        0,
    )


def test_points_kept_aside_are_counted_apart() -> None:
    linear = next(coverage_of(make_table({"split": "check"})))
    assert (linear.points, linear.held_out) == (5, 1)


def test_spread_names_the_worst_point() -> None:
    table = make_table({"mad_ns": 50.35}, {"mad_ns": 333.6})  # medians: 1,007 and 1,112
    seen = list(spread_of(table))
    assert [(each.point, round(each.value, 3)) for each in seen] == [
        ({"tokens": 1}, 0.05),
        ({"tokens": 16}, 0.3),
    ]
    assert list(spread_of(make_table())) == []


def test_regions_and_their_quantiles() -> None:
    seen = [Seen("linear", "all", {"tokens": 16 + i}, i / 10) for i in range(11)]
    seen += [Seen("attention_decode", "attention", {"batch": 64, "context": 1024}, 7.0)]
    first, second = (row for row in summarise(seen).itertuples())
    assert (first.operator, first.region, first.points) == ("linear", "16-255", 11)
    assert [first.p10, first.median, first.p90] == pytest.approx([0.1, 0.5, 0.9])
    assert (first.least_at, first.most_at) == ({"tokens": 16}, {"tokens": 26})
    assert (second.axis, second.region, second.most) == ("KV tokens", "65,536+", 7.0)
    assert summarise([]).empty


def test_points_in_words() -> None:
    mixed = {"chunk": 64, "chunk_context": 2048, "batch": 4, "context": 1024}
    assert say_point(mixed) == "64 behind 2,048, 4 x 1,024"
    assert say_point({"rows": 1024}) == "1,024"
    assert size_of("attention_decode", {"batch": 4, "context": 16}) == ("KV tokens", 64)


def peak_of(**columns: object) -> Peak:
    (kind,) = table_of(make_rows(**columns)).kinds().values()  # type: ignore[arg-type]
    return Peak.of(kind, H200)


def test_the_peak_by_hand() -> None:
    """Llama-3.1-8B: 218,103,808 numbers in a layer's matrices, 4,096 bytes of K and V a token
    and layer; H200: 4.8 TB/s and 989 TFLOP/s."""
    peak, flop, bandwidth = peak_of(), H200.bf16_flop_per_s, H200.bandwidth_bytes_per_s
    assert peak.matrices == 218_103_808 == LLAMA.dense.layer_matrices
    assert peak.linear_ns(1) == pytest.approx(1e9 * 32 * 2 * 218_103_808 / bandwidth)
    assert peak.linear_ns(4096) == pytest.approx(1e9 * 32 * 2 * 218_103_808 * 4096 / flop)
    assert peak.head_ns(1) == pytest.approx(1e9 * 2 * 128_256 * 4096 / bandwidth)
    assert peak.token_bytes == 4096
    assert peak.attention_ns(64 * 512, 64 * 512) == pytest.approx(1e9 * 4096 * 64 * 512 / bandwidth)
    pairs = 2048 * 2048 / 2
    assert peak.attention_ns(pairs, 2048) == pytest.approx(1e9 * 4 * 32 * 128 * pairs / flop)


def test_the_peak_of_several_gpus_and_of_small_dtypes() -> None:
    one, two, fp8 = peak_of(), peak_of(tp=2), peak_of(dtype="fp8")
    assert two.linear_ns(1) == pytest.approx(one.linear_ns(1) / 2)
    assert two.token_bytes == one.token_bytes / 2
    assert peak_of(tp=16).token_bytes == one.token_bytes / 8  # 8 heads of K and V are repeated
    assert fp8.linear_ns(1) == pytest.approx(one.linear_ns(1) / 2)
    assert fp8.head_ns(1) == one.head_ns(1)


def test_models_that_are_not_shipped_are_taken_for_gated() -> None:
    rows = ({**row, "model": "mine"} for row in make_rows())
    (kind,) = table_of(rows).kinds().values()
    assert Peak.of(kind, H200).matrices == LLAMA.dense.layer_matrices
    opt = load_model("OPT-13B")
    (kind,) = table_of(make_rows(opt)).kinds().values()
    assert Peak.of(kind, H200).matrices == opt.dense.layer_matrices


def shares_of(table: Table) -> dict[tuple[str, str, tuple[int, ...]], float]:
    (kind,) = table.kinds().values()
    return {
        (seen.operator, seen.variant, tuple(seen.point.values())): seen.value
        for seen in share_of_peak(kind, Peak.of(kind, H200))
    }


def test_shares_of_the_peak() -> None:
    peak, shares = peak_of(), shares_of(make_table(mixed=True))
    assert shares["linear", "all", (16,)] == pytest.approx(peak.linear_ns(16) / (32 * 1112))
    assert shares["head", "all", (8,)] == pytest.approx(peak.head_ns(8) / 50_088)
    decode = shares["attention_decode", "attention_decode", (16, 1024)]
    assert decode == pytest.approx(peak.attention_ns(16_384, 16_384) / 11_512)
    prefill = shares["attention_prefill", "attention_prefill", (128, 256)]
    assert prefill == pytest.approx(peak.attention_ns(128 * 320, 384) / (4000 + 0.01 * 128 * 320))
    mixed = shares["attention_mixed", "attention_mixed", (128, 256, 16, 1024)]
    both = peak.attention_ns(128 * 320 + 16_384, 384 + 16_384)
    assert mixed == pytest.approx(both / (1.5 * (11_512 + 4000 + 0.01 * 128 * 320)))


def test_columns_of_bytes_and_flop_come_before_the_shape() -> None:
    rows = list(make_rows())
    for row in rows:
        if row["operator"] == "linear":
            row |= {"variant": "o", "bytes": 4800.0 * 10**3, "flop": 1.0}
    shares = shares_of(table_of(rows))
    assert shares["linear", "o", (1,)] == pytest.approx(1000 / 1007)
    assert ("linear", "all", (1,)) not in shares
    modelled = shares_of(table_of({**row, "flags": "modelled"} for row in rows))
    assert modelled == {}


def test_devices_by_what_tables_call_them() -> None:
    for name, known in (("NVIDIA H200", "H200"), ("4 x H200", "H200"), ("a toaster", None)):
        told = Provenance(source="", device=name, licence="")
        device = device_of(make_table(told=told))
        assert (device and device.name) == known


def test_a_table_against_itself() -> None:
    (found,) = compare(make_table(mixed=True), make_table(mixed=True))
    assert len(found.ratios) == len(make_table(mixed=True).points)
    assert {each.value for each in found.ratios} == {1.0}
    assert not found.lacking
    assert not +found.outside


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.01, 100), operator=st.sampled_from(["linear", "attention_prefill"]))
def test_ratios_are_the_factor_of_what_was_changed(factor: float, operator: str) -> None:
    (found,) = compare(make_table(), scaled(factor, operator=operator))
    for each in found.ratios:
        assert each.value == pytest.approx(factor if each.operator == operator else 1)


def test_between_points_of_the_second() -> None:
    """The law is linear, so what is left out of the second is guessed exactly. Four rows at 16
    and at 8,192 lie beyond it: sixteen read more, one reads less."""
    kept = [row for row in make_rows() if row.get("batch") != 4 and row.get("tokens") != 64]
    (found,) = compare(make_table(), table_of(kept))
    assert +found.outside == {"attention_decode": 2}
    assert [each.value for each in found.ratios] == pytest.approx([1.0] * len(found.ratios))


def test_beyond_the_second_nothing_is_compared() -> None:
    kept = [
        row
        for row in make_rows()
        if row.get("context", 0) <= 1024  # type: ignore[operator]
        and row.get("tokens", 16) >= 16  # type: ignore[operator]
        and row.get("chunk", 0) <= 512  # type: ignore[operator]
    ]
    (found,) = compare(make_table(), table_of(kept))
    assert +found.outside == {"attention_decode": 4, "linear": 1, "attention_prefill": 4}
    assert not any(each.point.get("context") == 8192 for each in found.ratios)
    (other,) = compare(table_of(kept), make_table())
    assert not +other.outside


def test_variants_by_name_and_all_together() -> None:
    """Half of the layers' time under another name: the whole is compared, and what both have."""

    def cut(share: float, *names: str) -> Table:
        rows = list(make_rows())
        halves = [row for row in rows if row["operator"] == "linear"]
        whole = [row for row in rows if row["operator"] != "linear"]
        for name, part in zip(names, (share, 1 - share), strict=True):
            times = ((row, float(str(row["median_ns"]))) for row in halves)
            whole += [{**row, "variant": name, "median_ns": part * ns} for row, ns in times]
        return table_of(whole)

    (found,) = compare(cut(0.5, "o", "qkv"), cut(0.25, "o", "attn"))
    linear = summarise(each for each in found.ratios if each.operator == "linear")
    assert set(linear["variant"]) == {"all", "o"}
    medians = linear.groupby("variant")["median"].first()
    assert medians["all"] == pytest.approx(1)
    assert medians["o"] == pytest.approx(0.5)


def test_what_only_one_has() -> None:
    (found,) = compare(make_table(mixed=True), make_table())
    assert found.lacking == ("attention_mixed (only law)",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": load_model("Qwen3-8B")}, "model Llama-3.1-8B against Qwen3-8B"),
        ({"tp": 2}, "tp 1 against 2"),
        ({"dtype": "fp8"}, "dtype bfloat16 against fp8"),
    ],
)
def test_nothing_in_common(options: dict[str, Any], said: str) -> None:
    other = table_of(make_rows(**options))
    assert compare(make_table(), other) == []
    assert explain_nothing(make_table(), other) == said


def test_both_kinds_of_16_bits_are_compared() -> None:
    assert compare(make_table(), table_of(make_rows(dtype="float16")))


def invoke(*words: object) -> Any:
    return CliRunner().invoke(main, ["calibrate", "show", *map(str, words)])


def write(folder: Path, name: str, table: Table) -> Path:
    path = folder / name
    table.write(path)
    return path


def test_the_report(tmp_path: Path) -> None:
    changes = ({"mad_ns": 503.5}, {"mad_ns": 1.0})
    path = write(tmp_path, "t.parquet", make_table(*changes, told=HERE, mixed=True))
    result = invoke(path, "--json", tmp_path / "t.json")
    assert result.exit_code == 0, result.output
    for said in (
        "attention mixed        256       0 ",
        "spread of passes",
        "50 %   1",
        "error between points",
        "cache-warm?",
        "The peak is H200's datasheet, without efficiencies.",
        "! points that are faster than the peak allows: ",
    ):
        assert said in result.output, said
    kept = json.loads((tmp_path / "t.json").read_text())
    (kind,) = kept["tables"][0]["kinds"]
    assert kind["device"] == "H200"
    assert kind["spread"][0]["most_at"] == {"tokens": 1}
    assert kind["coverage"][0]["ranges"] == {"tokens": [1, 2048]}
    assert kind["faster_than_peak"] > 0
    assert {row["operator"] for row in kind["leave_one_out"]} >= {"linear", "attention_decode"}
    assert kept["compared"] == []


def test_a_device_that_is_named_or_not_known(tmp_path: Path) -> None:
    path = write(tmp_path, "t.parquet", make_table())
    assert "no GPU is no shipped device; --device names one" in invoke(path).output
    assert "The peak is L4's datasheet" in invoke(path, "--device", "L4").output
    assert "unknown device 'M9'" in invoke(path, "--device", "M9").output


def test_80_columns_cut_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = invoke("tiny-cpu").stdout
    monkeypatch.setattr("experiments.terminal._PIPE_COLUMNS", 80)
    narrow = invoke("tiny-cpu").stdout
    assert "…" not in narrow
    assert max(map(len, narrow.splitlines())) <= 80 < max(map(len, wide.splitlines()))
    assert narrow.count(" %") == wide.count(" %")


def test_two_tables(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    here = write(tmp_path / "a", "t.parquet", make_table(told=HERE))
    there = write(tmp_path, "t.parquet", scaled(2, operator="head"))
    result = invoke(here, there, "--json", tmp_path / "t.json", "--figure", tmp_path / "t.png")
    assert result.exit_code == 0, result.output
    assert "t.parquet against a/t.parquet" in result.output
    (line,) = re.findall("^head all +0-15 rows .*", result.output.partition("against")[2], re.M)
    assert line.split()[4:] == ["2", "2.00", "2.00", "2.00", "2.00", "1"]
    (pair,) = json.loads((tmp_path / "t.json").read_text())["compared"]
    ratios = {row["operator"]: row["median"] for row in pair["kinds"][0]["ratios"]}
    assert ratios["head"] == 2
    assert (tmp_path / "t.png").stat().st_size > 50_000
    other = write(tmp_path, "fp8.parquet", table_of(make_rows(dtype="fp8")))
    result = invoke(here, other)
    assert result.exit_code == 0
    assert "! nothing to compare: dtype bfloat16 against fp8" in result.output


def test_figures_of_what_is_there(tmp_path: Path) -> None:
    """Two kinds in one file, no known device; and a table without matrices."""
    fp8 = [{**row, "kv_dtype": "fp8"} for row in make_rows() if "kv_dtype" in row]
    two = write(tmp_path, "two.parquet", table_of([*make_rows(), *fp8]))
    assert invoke(two, "--figure", tmp_path / "two.png").exit_code == 0
    decodes = (row for row in make_rows() if row["operator"] == "attention_decode")
    few = write(tmp_path, "few.parquet", table_of(decodes))
    assert invoke(few, "--figure", tmp_path / "few.png").exit_code == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["few.png", "two.png"]


def test_a_figure_has_a_dot_for_each_point() -> None:
    (found,) = compare(make_table(), make_table())
    for operator, points in (("linear", 6), ("head", 4), ("attention_decode", 16)):
        assert len(whole_of(operator, found.ratios)) == points
    parts = [Seen("linear", name, {"tokens": 1}, 1.0) for name in ("o", "qkv")]
    assert whole_of("linear", parts) == parts
    whole = Seen("linear", "all", {"tokens": 1}, 1.0)
    assert whole_of("linear", [*parts, whole]) == [whole]


def test_mistakes(tmp_path: Path) -> None:
    good = write(tmp_path, "t.parquet", make_table())
    matrices = write(
        tmp_path, "m.parquet", table_of(row for row in make_rows() if row["operator"] == "linear")
    )
    for words, said in (
        ((good, "--figure", "t.jpg"), "Error: --figure: found t.jpg; allowed: a name in .png"),
        ((good, "--json", "t.png"), "Error: --json: found t.png; allowed: a name in .json"),
        ((good, tmp_path / "none"), "none: found no such file"),
        ((matrices,), "m.parquet: found no points of attention"),
        (
            (good, "--json", tmp_path / "no" / "t.json"),
            "t.json; allowed: a file in a folder",
        ),
    ):
        result = invoke(*words)
        assert (result.exit_code, said in result.output) == (2, True), result.output


def test_the_door(tmp_path: Path) -> None:
    path = write(tmp_path, "t.parquet", make_table())
    assert CliRunner().invoke(shown, [str(path)]).output == invoke(path).output
