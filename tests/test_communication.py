"""Where a table's collectives come from: its own points, the link, or nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from calibrate.communication import Source, settle_communication
from calibrate.device import Device, load_device
from calibrate.link import Ring
from calibrate.steptime import StepTime
from calibrate.table import Table
from calibrate.table_peak import Peak, share_of_peak
from calibrate.table_schema import TableError
from experiments.build import build_latency
from experiments.config import parse_config
from experiments.deployment import resolve
from experiments.errors import ConfigError
from sim.contract import check_latency_model
from tests.latency_tables import LLAMA, TOLD, head_ns, linear_ns, make_rows, prefill_ns
from tests.test_importers import llmservingsim

H200 = load_device("H200")
RING = Ring.of(H200, 2)


def table(*, reduce_ns: float | None = None, last: int = 2048) -> Table:
    """The law of two GPUs; its all-reduce takes so much and half as much again at the end."""
    rows = list(make_rows(tp=2))
    if reduce_ns is not None:
        for tokens, share in ((1, 1.0), (last, 1.5)):
            point = {"operator": "allreduce", "variant": "allreduce", "tokens": tokens, "calls": 65}
            rows.append({**rows[0], **point, "median_ns": reduce_ns * share})
    return Table.of_rows(rows, name="law", provenance=TOLD)


def clock_of(
    source: Source, device: Device | None = H200, gpus: int = 2, **options: Any
) -> StepTime:
    found = settle_communication(table(**options), LLAMA, device, gpus=gpus, source=source)
    return StepTime(found)


def kernels_ns(tokens: int) -> float:
    return 32 * (linear_ns(tokens) + prefill_ns(tokens, 0)) + head_ns(1)


def linked_ns(tokens: int) -> float:
    return 65 * RING.all_reduce_ns(tokens * 8192) + RING.all_gather_ns(2 * 128_256)


@pytest.mark.parametrize("tokens", [16, 128, 512, 2048])
def test_the_link_fills_in_what_a_table_lacks(tokens: int) -> None:
    gather_ns = RING.all_gather_ns(2 * 128_256)
    reduce_ns = 65 * 1e5 * (1 + 0.5 * (tokens - 1) / 2047)
    for source, measured, expected in (
        ("none", None, 0),
        ("none", 1e5, 0),
        ("auto", None, linked_ns(tokens)),
        ("auto", 1e5, reduce_ns + gather_ns),
        ("modelled", 1e5, linked_ns(tokens)),
        ("measured", 1e5, reduce_ns),
    ):
        clock = clock_of(source, reduce_ns=measured)  # type: ignore[arg-type]
        assert clock.alone(0, tokens) == pytest.approx(kernels_ns(tokens) + expected, abs=0.51)
    check_latency_model(clock_of("auto"))


def test_notes_say_which_it_was() -> None:
    link = "modelled, not measured: NVLink 4, 450 GB/s a direction x 0.65, 4.4 us a call"
    free = "which take no time here"
    assert clock_of("auto").notes == (
        f"allreduce and allgather {link}",
        f"no points of sampling, {free}",
    )
    assert clock_of("auto", reduce_ns=1.0).notes[0] == f"allgather {link}"
    assert clock_of("none").notes == (f"no points of sampling and allreduce and allgather, {free}",)
    measured = clock_of("measured", reduce_ns=1.0).notes
    assert measured == (f"no points of sampling and allgather, {free}",)


def test_one_gpu_keeps_its_table() -> None:
    for source in ("auto", "measured", "modelled", "none"):
        one = table()
        assert settle_communication(one, LLAMA, None, gpus=1, source=source) is one  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("measured", {}, "found measured, but law has no points of allreduce between 2 GPUs"),
        ("auto", {"device": None}, "law does not price.*no device is given.*allowed: a device"),
        ("auto", {"device": load_device("RTX 4090")}, "no link is known; allowed: communication"),
        ("modelled", {"gpus": 16}, "connects 2 to 8 GPUs of a node, got 16"),
    ],
)
def test_what_cannot_be_had(source: Source, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TableError, match=rf"^latency.communication: .*{message}"):
        clock_of(source, **options)


def test_an_all_reduce_beyond_its_points_is_counted() -> None:
    import numpy as np

    counts = {"decodes": 0, "decode_context": 0, "copied_blocks": 0, "chunks": 1, "steps": 3}
    steps = {name: np.array([n]) for name, n in counts.items()} | {"chunk_tokens": np.array([500])}
    chunks = {"tokens": np.array([500]), "computed_before": np.array([0])}
    seen = clock_of("measured", reduce_ns=1.0, last=100).outside(steps, chunks)
    assert seen == {
        "steps of more tokens in an all-reduce than the measured 100, extrapolated": 3,
    }
    assert clock_of("auto").outside(steps, chunks) == {}


def config(latency: dict[str, object], **engine: object) -> Any:
    return parse_config(
        {
            "model": "Llama-3.1-8B",
            "device": "H200",
            "engine": {"tensor_parallel_size": 2, **engine},
            "latency": latency,
            "trace": {"kind": "chat"},
        }
    )


def test_a_config_says_it(tmp_path: Path) -> None:
    table().write(tmp_path / "t.parquet")
    told = {"kind": "table", "path": str(tmp_path / "t.parquet")}
    took = {
        source: int(build_latency(resolve(config({**told, "communication": source}))).alone(0, 512))
        for source in ("none", "auto")
    }
    assert took["auto"] - took["none"] == pytest.approx(linked_ns(512), abs=2)
    with pytest.raises(TableError, match=r"latency.communication: found measured, but"):
        build_latency(resolve(config({**told, "communication": "measured"})))
    for none in ("modelled", "none"):
        build_latency(resolve(config({"kind": "roofline", "communication": none})))
    with pytest.raises(ConfigError, match=r"latency.communication: found 'measured'; did you mean"):
        config({"kind": "roofline", "communication": "measured"})
    with pytest.raises(ConfigError, match=r"latency: .* 2 to 8 GPUs of a node, got 16"):
        build_latency(resolve(config({"kind": "roofline"}, tensor_parallel_size=16)))


def test_a_profile_without_all_reduce_is_filled_in(tmp_path: Path) -> None:
    folder = llmservingsim(tmp_path)
    (folder / "tp1").rename(folder / "tp2")
    told = {"kind": "imported", "source": "llmservingsim", "path": str(folder)}
    free, paid = (
        build_latency(resolve(config({**told, "communication": source})))
        for source in ("none", "auto")
    )
    assert int(paid.alone(0, 100)) - int(free.alone(0, 100)) == pytest.approx(linked_ns(100), abs=2)
    assert isinstance(paid, StepTime)
    assert any("allreduce and allgather modelled" in note for note in paid.notes)


def test_a_table_without_a_head_is_filled_in_by_its_tokens() -> None:
    rows = [row for row in make_rows(tp=2) if row["operator"] != "head"]
    bare = Table.of_rows(rows, name="law", provenance=TOLD)
    filled = settle_communication(bare, LLAMA, H200, gpus=2, source="auto")
    (gather,) = filled.of("allgather")
    assert gather.axes["rows"].tolist() == [1, 2048]
    assert gather.ns.tolist() == [RING.all_gather_ns(rows * 256_512) for rows in (1, 2048)]


def test_memory_is_no_peak_of_a_link() -> None:
    """What was measured of a collective is not held against the bandwidth of the memory."""
    rows = [{**row, "bytes": 8192.0} for row in make_rows(tp=2)]
    point = {"operator": "allreduce", "variant": "allreduce", "tokens": 1, "calls": 65}
    held = Table.of_rows([*rows, {**rows[0], **point}], name="law", provenance=TOLD)
    seen = {each.operator for each in share_of_peak(held, Peak.of(held, H200))}
    assert seen == {"linear", "head", "attention_decode", "attention_prefill"}
