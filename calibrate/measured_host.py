"""What a measurement says of the machine's own state: host time of steps, clocks of the GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any

_HARMLESS = 0x3
"""NVML's bits of reasons for low clocks that are none to mind: idle, and clocks as they are set."""


def host_times(steps: Iterable[Sequence[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """By kind of whole steps, medians in ns: what the GPU takes in a graph (`graph_ns`), what the
    host takes to launch it kernel by kernel (`launch_ns`), and how much longer than the graph that
    is until the GPU is done (`exposed_ns`)."""
    seen: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for lines in steps:
        eager = [line["eager_ns"] for line in lines if "eager_ns" in line]
        launch = [line["launch_ns"] for line in lines if "launch_ns" in line]
        if eager and launch and lines[0]["clock"] == "cuda_event":
            graph = median(line["median_ns"] for line in lines)
            exposed = median(eager) - graph
            for kind in (lines[0]["step"], "all"):
                seen[kind].append((graph, median(launch), exposed))
    names = ("graph_ns", "launch_ns", "exposed_ns")
    return {
        kind: dict(
            zip(names, (float(median(each)) for each in zip(*times, strict=True)), strict=True)
        )
        for kind, times in seen.items()
    }


def say_host(times: dict[str, dict[str, float]]) -> Iterator[str]:
    if times:
        said = ", ".join(
            f"{kind} {told['exposed_ns'] / 1e6:+.2f} ms" for kind, told in sorted(times.items())
        )
        yield f"launched kernel by kernel, not in a CUDA graph, steps take (medians) {said}"


def say_clocks(clocks: Sequence[dict[str, str]]) -> Iterator[str]:
    """What held a GPU back when a pass ended."""
    reasons = [told.get("clocks_event_reasons.active", "") for told in clocks]
    held = [reason for reason in reasons if _mask(reason) & ~_HARMLESS]
    if held:
        worst = max(held, key=_mask)
        yield f"clocks held back at the end of {len(held)} of {len(clocks)} passes (up to {worst})"


def _mask(reason: str) -> int:
    try:
        return int(reason, 16)
    except ValueError:
        return 0
