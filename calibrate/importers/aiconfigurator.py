"""Operator tables of aiconfigurator-core (NVIDIA, Apache-2.0): measured kernels of many GPUs.

The wheel has systems/<gpu>.yaml and, under systems/data/<gpu>/<family>/vllm/<version>/,
gemm_perf, context_attention_perf, generation_attention_perf and custom_allreduce_perf as
parquet, and nccl_perf under comm/nccl/<version>/: milliseconds of one call. It is read as files,
and never imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from calibrate.device import Device
from calibrate.importers.aic_attention import read_attention
from calibrate.importers.aic_comm import read_collectives
from calibrate.importers.aic_wheel import find_systems, newest, read_points, wheel_version
from calibrate.importers.flash_attention import QUERY_BLOCK
from calibrate.model import Model
from calibrate.table import Provenance, Table, shape_of
from calibrate.table_schema import TableError

SYSTEMS = {
    "A100-80GB": "a100_sxm",
    "H100": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "L40S": "l40s",
    "RTX PRO 6000": "rtx_pro_6000_server",
}
"""Our devices, and what the wheel calls them."""
GEMM_DTYPES = ("bfloat16", "fp8")
_BYTES = 2
_MODELLED = (
    "chunks behind a context, beside decodes, and decodes of mixed length are modelled ({}) as"
    " FlashAttention-2 computes them; its blocks without queries as on an RTX PRO 6000"
)


class _Matrix(NamedTuple):
    """Weights of n outputs and k inputs on one GPU."""

    variant: str
    n: int
    k: int


def import_aiconfigurator(
    path: str | Path | None,
    model: Model,
    device: Device,
    *,
    tensor_parallel_size: int = 1,
    gemm_dtype: str = "bfloat16",
    version: str | None = None,
    modelled_attention: bool = True,
) -> Table:
    """The operators of a dense model on a device, as vLLM runs them.

    `path`: the folder that has `systems`, or null for the installed wheel; `version`: of
    vLLM, the newest that was measured where it is null. Sizes of matrices that were not
    measured are interpolated in the logarithms of time, n and k; beyond the largest, at its
    rate. Norms, activation and embedding were not measured: they are modelled as the wheel's
    own software does, from the bytes they move. Only prompts without a context before them
    were measured, and no calls of chunks and decodes: both are modelled where the kernel is
    FlashAttention-2, unless `modelled_attention` is false. Raises TableError for what is missing,
    with what there is.
    """
    systems = find_systems(path)
    name = SYSTEMS.get(device.name)
    if name is None:
        raise TableError(
            f"{systems}: found no tables of {device.name}; allowed: {', '.join(SYSTEMS)}"
        )
    tp = tensor_parallel_size
    if model.heads % tp or model.dense.mlp_size % tp:
        raise TableError(f"tensor_parallel_size: found {tp}; {model.name} cannot be cut so")
    data = systems / "data" / name
    tables = {
        family: newest(data / family / "vllm", file, version)
        for family, file in (("gemm", "gemm_perf"), ("attention", "context_attention_perf"))
    }
    common = {
        "model": model.name,
        **shape_of(model),
        "tp": tp,
        "dtype": gemm_dtype,
        "clock": "cuda_event",
    }
    measured, matrices = _read_gemm(tables["gemm"], model, tp, gemm_dtype)
    rows = [*matrices, *_model_elementwise(systems / f"{name}.yaml", model, tp, measured)]
    attention = read_attention(
        tables["attention"].parent, model, tp, device, modelled=modelled_attention
    )
    rows += attention.rows
    notes = [
        "norms, activation and embedding are modelled from the bytes they move",
        "rotation and KV write were not measured apart from attention, and take no time here",
        "decodes measured on keys and values in L2, taken from the line of larger ones:"
        f" {attention.warm:,} points",
    ]
    skewed: dict[str, Any] = {}
    if attention.blocks is not None:
        cache, blocks = attention.blocks
        notes.append(_MODELLED.format(cache))
        skewed = {
            "query_blocks": {cache: QUERY_BLOCK},
            "skew": blocks.skew,
            "tail": blocks.tail,
        }
    versions = {f"vllm ({family})": file.parent.name for family, file in tables.items()}
    if tp > 1:
        found = read_collectives(data / "comm", model, tp, at=measured)
        rows += found.rows
        versions |= found.versions
        notes += found.notes
    told = Provenance(
        source=f"aiconfigurator-core{wheel_version(path)}'s kernels of {model.name}, vLLM"
        f" {tables['attention'].parent.name}, {gemm_dtype} weights",
        device=f"{tp} x {device.name}" if tp > 1 else device.name,
        licence="Apache-2.0 (NVIDIA, aiconfigurator-core)",
        versions=versions,
        settings={"system": name},
        notes=tuple(notes),
        **skewed,
    )
    return Table.of_rows(({**common, **row} for row in rows), name=str(data), provenance=told)


def _read_gemm(
    path: Path, model: Model, tp: int, dtype: str
) -> tuple[list[int], list[dict[str, object]]]:
    """The token counts that were measured, and the points of every matrix of the model."""
    query = model.heads * model.key_size
    cache = 2 * -(-model.kv_heads // tp) * model.key_size  # heads fewer than GPUs are repeated
    hidden, mlp = model.hidden_size, model.dense.mlp_size
    layer = (
        _Matrix("qkv", query // tp + cache, hidden),
        _Matrix("o", hidden, query // tp),
        _Matrix("gate_up", model.dense.mlp_inputs * mlp // tp, hidden),
        _Matrix("down", hidden, mlp // tp),
    )
    frame = read_points(path, ("m", "n", "k", "gemm_dtype"), gemm_dtype=dtype)
    measured, times = _interpolate(frame, layer)
    rows: list[dict[str, object]] = [
        {
            "operator": "linear",
            "variant": matrix.variant,
            "tokens": tokens,
            "calls": model.layers,
            "median_ns": float(time_ns),
        }
        for matrix in layer
        for tokens, time_ns in zip(measured, times[matrix], strict=True)
    ]
    head = _Matrix("head", -(-model.vocab_size // tp), hidden)
    if dtype != "bfloat16":  # vLLM leaves the head as it is
        frame = read_points(path, ("m", "n", "k", "gemm_dtype"), gemm_dtype="bfloat16")
    counts, times = _interpolate(frame, (head,))
    rows += [
        {
            "operator": "head",
            "variant": "head",
            "rows": count,
            "calls": 1,
            "median_ns": float(time_ns),
            "flags": "extrapolated" if head.n > frame["n"].max() else None,
        }
        for count, time_ns in zip(counts, times[head], strict=True)
    ]
    return measured, rows


def _interpolate(
    frame: Any, matrices: tuple[_Matrix, ...]
) -> tuple[list[int], dict[_Matrix, NDArray[np.float64]]]:
    """Nanoseconds of each matrix at every m that all sizes were measured at."""
    grid = frame.groupby(["n", "k", "m"])["latency"].median().unstack("m")
    measured = [int(m) for m in grid.columns[grid.notna().mean() > 0.99]]
    found: dict[_Matrix, NDArray[np.float64]] = {}
    for matrix in matrices:
        times = [_at_size(grid[m].dropna().unstack("k"), matrix) for m in measured]
        found[matrix] = np.array(times) * 1e6
    return measured, found


def _at_size(times: Any, matrix: _Matrix) -> float:
    """Bilinear in the logarithms of time, n and k; beyond the edge in proportion to n or k."""

    def along(nodes: NDArray[np.float64], logs: NDArray[np.float64], size: int) -> float:
        known = ~np.isnan(logs)
        edge = min(float(size), nodes[known][-1])
        at = np.interp(np.log(edge), np.log(nodes[known]), logs[known])
        return float(at + np.log(size / edge))

    logs = np.log(times.to_numpy())
    widths, depths = times.index.to_numpy(float), times.columns.to_numpy(float)
    by_width = np.array([along(depths, row, matrix.k) for row in logs])
    return float(np.exp(along(widths, by_width, matrix.n)))


def _model_elementwise(
    path: Path, model: Model, tp: int, measured: list[int]
) -> Iterator[dict[str, object]]:
    """Norms (with the residual: two rows in, two out), activation, embedding, last norm."""
    try:
        gpu = yaml.safe_load(path.read_text(encoding="utf-8"))["gpu"]
        byte_ns = 1e9 / (gpu["mem_bw"] * gpu["mem_bw_empirical_scaling_factor"])
        least_ns = 1e9 * gpu["mem_empirical_constant_latency"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise TableError(f"{path}: found no memory bandwidth of the GPU ({error})") from None
    hidden, layers = model.hidden_size, model.layers
    activated = (model.dense.mlp_inputs + 1) * model.dense.mlp_size // tp
    moved = {
        "norm": (4 * hidden, 2 * layers),
        "activation": (activated, layers),
        "embedding": (2 * hidden, 1),
        "last_norm": (4 * hidden, 1),
    }
    for variant, (numbers, calls) in moved.items():
        for tokens in measured:
            yield {
                "operator": "linear",
                "variant": variant,
                "tokens": tokens,
                "calls": calls,
                "median_ns": least_ns + byte_ns * _BYTES * numbers * tokens,
                "bytes": float(_BYTES * numbers * tokens),
                "flags": "modelled",
            }
