"""A table held against what its GPU was seen to do, and its KV caches against each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calibrate.table_compare import Comparison, Kind, compare_kinds
from calibrate.table_peak import Peak, share_of_peak
from calibrate.table_seen import Seen

if TYPE_CHECKING:
    from calibrate.device import Device
    from calibrate.table import Table

_CACHED = ("attention_decode", "attention_prefill", "attention_mixed", "kv_write")
"""What a quantised cache can make faster."""


@dataclass(frozen=True, slots=True)
class Decode:
    """One point of decode attention: so much of K and V, one layer, in this time."""

    kv_dtype: str
    batch: int
    context: int
    ns: float
    moved: int
    """Bytes of K and V; scales, where there are, beside them."""
    share: float
    """Of the bandwidth."""


def make_ceiling(device: Device, *, bytes_per_s: float | None, flop_per_s: float | None) -> Device:
    """The device with rates that were measured on it, where they are given; whatever is computed
    is then held against that one rate, as kernels do it that multiply in 16 bits."""
    bandwidth = device.bandwidth_bytes_per_s if bytes_per_s is None else bytes_per_s
    device = replace(device, bandwidth_bytes_per_s=bandwidth)
    if flop_per_s is None:
        return device
    return replace(device, bf16_flop_per_s=flop_per_s, fp8_flop_per_s=None, int8_op_per_s=0.0)


def hold_against_ceiling(table: Table, ceiling: Device) -> Iterator[Seen]:
    """Measured time over the least possible, by point. The table is of one kind."""
    for seen in share_of_peak(table, Peak.of(table, ceiling)):
        yield seen._replace(value=1 / seen.value)


def find_decodes(table: Table, ceiling: Device, *, batch: int, context: int) -> list[Decode]:
    """That decode in each kind of the table that measured it."""
    found = []
    for kind in table.kinds().values():
        peak = Peak.of(kind, ceiling)
        moved = peak.token_bytes * batch * context
        for points in kind.of("attention_decode"):
            here = (points.axes["batch"] == batch) & (points.axes["context"] == context)
            for ns in points.ns[here].tolist():
                share = moved / (ns / 1e9) / ceiling.bandwidth_bytes_per_s
                found.append(Decode(peak.kv_dtype, batch, context, ns, moved, share))
    return found


def compare_caches(table: Table) -> list[Comparison]:
    """Each kind with a smaller KV cache, against the same model with K and V in 16 bits: its time
    over theirs."""
    kinds = [(Kind.of(kind), kind) for kind in table.kinds().values()]
    found = []
    for wide, base in kinds:
        if wide.kv_dtype != wide.dtype:
            continue
        for narrow, kind in kinds:
            if narrow._replace(kv_dtype=wide.kv_dtype) == wide and narrow != wide:
                told = compare_kinds(f"{narrow.kv_dtype} over {wide.kv_dtype}", base, kind)
                told.ratios = [seen for seen in told.ratios if seen.operator in _CACHED]
                told.lacking = ()
                found.append(told)
    return found


def far_off(ratios: Iterable[Seen], beyond: float) -> list[Seen]:
    """Points that are more than `beyond` above 1, or as far below it, the farthest first."""
    factor = 1 + beyond
    far = [seen for seen in ratios if not 1 / factor <= seen.value <= factor]
    return sorted(far, key=lambda seen: -max(seen.value, 1 / seen.value))
