"""aiconfigurator-core's collectives: vLLM's own all-reduce, and NCCL's all-gather."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from calibrate import weights
from calibrate.curves import Line
from calibrate.importers.aic_wheel import newest, read_points
from calibrate.link import all_reduces
from calibrate.model import Model
from calibrate.table_schema import TableError


class Collectives(NamedTuple):
    """What was found of them."""

    rows: list[dict[str, object]]
    versions: dict[str, str]
    notes: list[str]
    """Why one of them is lacking."""


def read_collectives(folder: Path, model: Model, tp: int, *, at: Sequence[int]) -> Collectives:
    """The points of a group of tp GPUs, `at` so many tokens, and as many rows of logits.

    `folder` has vllm/<version>/custom_allreduce_perf and nccl/<version>/nccl_perf. `message_size`
    counts numbers, not bytes; of an all-gather those of the result: were they one GPU's part, eight
    H200 would move 2.7 TB/s over links of 0.45. What was not measured is noted, not refused:
    others can price it.
    """
    found = Collectives([], {}, [])

    def attempt(what: str, read: Callable[[], tuple[Path, Line]]) -> Line | None:
        try:
            path, line = read()
        except TableError as error:
            found.notes.append(f"no measured {what}: {error}")
            return None
        found.versions[f"{path.parent.parent.name} ({what})"] = path.parent.name
        return line

    reduce = attempt("all-reduce", lambda: _all_reduce(folder / "vllm", tp))
    if reduce is not None:
        found.rows.extend(_points(reduce, "allreduce", "tokens", at, model))
    gather = attempt("all-gather", lambda: _all_gather(folder / "nccl", tp))
    if gather is not None:
        found.rows.extend(_points(gather, "allgather", "rows", at, model))
    return found


def _all_reduce(folder: Path, tp: int) -> tuple[Path, Line]:
    """Milliseconds over numbers; in a CUDA graph, where that was measured."""
    path = newest(folder, "custom_allreduce_perf", None)
    frame = read_points(path, ("num_gpus", "message_size", "kernel_source"), num_gpus=tp)
    graph = frame["kernel_source"].str.contains("graph")
    return path, _line(frame[graph] if graph.any() else frame)


def _all_gather(folder: Path, tp: int) -> tuple[Path, Line]:
    path = newest(folder, "nccl_perf", None)
    columns = ("op_name", "num_gpus", "nccl_dtype", "message_size")
    return path, _line(
        read_points(path, columns, op_name="all_gather", num_gpus=tp, nccl_dtype="half")
    )


def _line(frame: Any) -> Line:
    times = frame.groupby("message_size")["latency"].median()
    return Line(times.index.tolist(), times.tolist())


def _points(
    line: Line, operator: str, axis: str, counts: Sequence[int], model: Model
) -> Iterator[dict[str, object]]:
    """Where they lie within what was measured."""
    reduces = operator == "allreduce"
    each = model.hidden_size if reduces else model.vocab_size
    for count in counts:
        numbers = count * each
        if line.nodes[0] <= numbers <= line.last:
            yield {
                "operator": operator,
                "variant": operator,
                axis: count,
                "calls": all_reduces(model) if reduces else 1,
                "median_ns": line.at(numbers) * 1e6,
                "bytes": float(weights.BYTES * numbers),
            }
