"""How near measured operators come to what the datasheet allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calibrate.attention_curves import area_of
from calibrate.curves import Floats, add
from calibrate.device import Device, DeviceError, load_device
from calibrate.model import ModelError, load_model
from calibrate.table import shape_of
from calibrate.table_curves import line_of
from calibrate.table_schema import COLLECTIVES, SHAPE
from calibrate.table_seen import Seen, frames_of, points_of

if TYPE_CHECKING:
    from calibrate.table import Table

_ONE_BYTE = ("fp8", "int8", "int8_per_token_head")
_GATED = 3
"""Matrices of an MLP with a gate: gate, up, down."""


def device_of(table: Table) -> Device | None:
    """The shipped device that a table was measured on, by what its provenance calls it."""
    name = table.provenance.device
    _, several, one = name.partition(" x ")
    try:
        return load_device(one if several else name)
    except DeviceError:
        return None


@dataclass(frozen=True, slots=True)
class Peak:
    """The least time in which one GPU could do a model's operators, in nanoseconds.

    The longer of computing at the datasheet's peak and moving bytes at its bandwidth, with no
    efficiencies. Counted as `calibrate.roofline` does: weights read once a call, the KV cache
    once by each sequence, activations free. So it is a bound, and whatever is faster had its
    data in a cache, or is wrong.
    """

    device: Device
    shape: Mapping[str, int]
    """The columns SHAPE of a table's points."""
    matrices: int
    """Weights in one layer's matrices."""
    tp: int = 1
    dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"

    @classmethod
    def of(cls, table: Table, device: Device) -> Peak:
        """Of a table of one kind. Models that are not shipped count as gated MLPs."""
        first = table.points.slice(0, 1).to_pylist()[0]
        caches = [cache for cache in table.points["kv_dtype"].unique().to_pylist() if cache]
        shape = {column: first[column] for column in SHAPE}
        matrices = _count_matrices(first["model"], shape)
        cache = caches[0] if caches else "bfloat16"
        return cls(device, shape, matrices, first["tp"], first["dtype"], cache)

    def least_ns(self, flop: Any, moved: Any, *, dtype: str = "bfloat16") -> Any:
        """Of so many FLOP and bytes, numbers or arrays; fp8 at the peak of fp8."""
        peak = self.device.bf16_flop_per_s
        if dtype in _ONE_BYTE:
            peak = max(peak, self.device.fp8_flop_per_s or 0, self.device.int8_op_per_s)
        return 1e9 * np.maximum(flop / peak, moved / self.device.bandwidth_bytes_per_s)

    def dtype_of(self, operator: str) -> str:
        """In which it computes; the output head stays in 16 bits beside fp8 weights."""
        if operator == "head":
            return "bfloat16"
        return self.kv_dtype if operator.startswith("attention") else self.dtype

    def linear_ns(self, tokens: Any) -> Any:
        """Of all layers' matrices."""
        numbers = self.shape["layers"] * self.matrices / self.tp
        size = 1 if self.dtype in _ONE_BYTE else 2
        return self.least_ns(2 * numbers * tokens, size * numbers, dtype=self.dtype)

    def head_ns(self, rows: Any) -> Any:
        """The output head, in 16 bits."""
        numbers = self.shape["vocab_size"] * self.shape["hidden_size"] / self.tp
        return self.least_ns(2 * numbers * rows, 2 * numbers)

    def attention_ns(self, pairs: Any, fetched: Any) -> Any:
        """One call: so many pairs of query and key, so many tokens of K and V."""
        shape = self.shape
        heads = shape["heads"] / self.tp
        flop = 4 * heads * shape["head_size"] * pairs
        return self.least_ns(flop, self.token_bytes * fetched, dtype=self.kv_dtype)

    @property
    def token_bytes(self) -> int:
        """K and V of one token, one layer, one GPU; heads fewer than GPUs are repeated."""
        heads = -(-self.shape["kv_heads"] // self.tp)
        return 2 * heads * self.shape["head_size"] * (1 if self.kv_dtype in _ONE_BYTE else 2)


def share_of_peak(table: Table, peak: Peak) -> Iterator[Seen]:
    """The least possible time over the measured one, by point; above 1 is faster than can be.

    From the columns `bytes` and `flop` where a variant has one of them, else from the model's
    shape: linear and head as a whole, all variants of them together. What was modelled rather
    than measured, what goes over links instead of through memory, and operators of which the
    shape says nothing, are left out. The table is of one kind.
    """
    counted = set()
    frames = [
        (operator, variant, frame)
        for operator, variant, frame in frames_of(table)
        if operator not in COLLECTIVES
        and not frame["flags"].str.contains("modelled", na=False).any()
    ]
    for operator, variant, frame in frames:
        known = frame[["bytes", "flop"]].fillna(0.0)
        if (known.max(axis=1) > 0).all():
            counted.add((operator, variant))
            flop, moved = known["flop"].to_numpy(), known["bytes"].to_numpy()
            least = peak.least_ns(flop, moved, dtype=peak.dtype_of(operator))
            yield from _shares(operator, variant, frame, least)
    for operator, variant, frame in frames:
        if (operator, variant) not in counted and operator.startswith("attention"):
            yield from _shares(operator, variant, frame, _attend(operator, frame, peak))
    for operator, least_ns in (("linear", peak.linear_ns), ("head", peak.head_ns)):
        measured = {variant for name, variant, _ in frames if name == operator}
        if any((operator, variant) not in counted for variant in measured):
            yield from _whole(table, operator, least_ns)


def _whole(table: Table, operator: str, least_ns: Any) -> Iterator[Seen]:
    """All variants of a one-axis operator together, where they were measured."""
    found = table.of(operator)
    line = add(line_of(points).scaled(points.calls) for points in found)
    (axis,) = found[0].axes
    first = max(int(points.axes[axis].min()) for points in found)
    last = min(int(points.axes[axis].max()) for points in found)
    for node, time in zip(line.nodes, line.times, strict=True):
        if first <= node <= last:
            yield Seen(operator, "all", {axis: int(node)}, float(least_ns(node)) / time)


def _attend(operator: str, frame: Any, peak: Peak) -> Floats:
    pairs = fetched = np.zeros(len(frame))
    if operator != "attention_decode":
        chunk, before = (
            frame[axis].to_numpy(dtype=np.float64) for axis in ("chunk", "chunk_context")
        )
        pairs, fetched = pairs + area_of(chunk, before), fetched + before + chunk
    if operator != "attention_prefill":
        context = (frame["batch"] * frame["context"]).to_numpy(dtype=np.float64)
        pairs, fetched = pairs + context, fetched + context
    least: Floats = peak.attention_ns(pairs, fetched)
    return least


def _shares(operator: str, variant: str, frame: Any, least: Floats) -> Iterator[Seen]:
    shares = (least / frame["median_ns"].to_numpy()).tolist()
    for point, share in zip(points_of(operator, frame), shares, strict=True):
        yield Seen(operator, variant, point, share)


def _count_matrices(name: str, shape: Mapping[str, int]) -> int:
    try:
        model = load_model(name)
        if shape_of(model) == shape:
            return model.dense.layer_matrices
    except ModelError:
        pass
    query, cache = shape["heads"], 2 * shape["kv_heads"]
    attention = shape["hidden_size"] * shape["head_size"] * (2 * query + cache)
    return attention + _GATED * shape["hidden_size"] * shape["mlp_size"]
