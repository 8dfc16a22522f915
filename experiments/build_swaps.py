"""What swapping a KV block costs, for clocks that do not know it by themselves."""

from __future__ import annotations

from calibrate.curves import Line, add
from calibrate.host_link import PricesSwaps, SwapTime
from calibrate.steptime import StepTime
from calibrate.table import Table
from calibrate.table_curves import line_of
from experiments.deployment import Deployment, count_block_bytes
from experiments.engine_config import Swap
from experiments.errors import ConfigError


def price_swaps(deployment: Deployment, latency: PricesSwaps) -> SwapTime:
    """From the clock's table, where it has swaps of such blocks, else from the device's host link.

    Raises ConfigError where there is neither.
    """
    engine = deployment.config.engine
    assert isinstance(engine.preemption, Swap)
    if isinstance(latency, StepTime):
        measured = _read_swaps(latency.table, block_size=engine.block_size)
        if measured is not None:
            return measured
    if deployment.device is None or deployment.model is None:
        lacking = "device" if deployment.device is None else "model"
        raise ConfigError(
            f"engine.preemption.kind: found swap, which has no price; allowed: with a {lacking},"
            " whose host link or size tells it, or with a latency table of swap_out and swap_in"
            f" in blocks of {engine.block_size} tokens"
        )
    return SwapTime.of_link(
        deployment.device.host_link,
        block_bytes=count_block_bytes(engine, deployment.model),
        efficiency=engine.preemption.link_efficiency,
    )


def _read_swaps(table: Table, *, block_size: int) -> SwapTime | None:
    """As measured and corrected; None where the table lacks a direction, or has other blocks."""
    if table.provenance.settings.get("block_size", block_size) != block_size:
        return None
    out, back = _read(table, "swap_out"), _read(table, "swap_in")
    if out is None or back is None:
        return None
    most = min(out.last, back.last)
    return SwapTime(out, back, f"swaps as measured, of up to {most:,.0f} blocks at once", most)


def _read(table: Table, operator: str) -> Line | None:
    factor = table.provenance.factors.get(operator, 1.0)
    found = table.of(operator)
    return add(line_of(each).scaled(each.calls * factor) for each in found) if found else None
