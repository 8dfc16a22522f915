"""What KV blocks take on their way to host memory and back: as measured, or a model of the link.

The model::

    swap of n blocks in one direction:  latency + n x block bytes / (efficiency x bytes/s)

on each GPU at once, one direction after the other. It assumes that a block with all its layers is
one piece of host memory, that this memory is pinned, and that copies are queued without a gap: as
`calibrate.kernels` do it. vLLM V0 copied each block layer by layer, keys and values apart (32 KiB
each for Llama-3.1-8B with blocks of 16), which reaches a fraction of the link's bytes/s: on an
MI300X copies of 32 KiB were measured at 3.3 GB/s, of 512 KiB at 24 GB/s (vllm-project/vllm, pull
request 40549). An efficiency says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from calibrate.curves import Line

if TYPE_CHECKING:
    from sim.latency import Counts, Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLink:
    """What connects a GPU with its host."""

    name: str
    bytes_per_s: float
    """That long copies of pinned memory reach, in one direction."""
    latency_ns: int
    """Of a copy of next to nothing."""
    source: str
    date: str
    """When the source was looked at."""


@dataclass(frozen=True, slots=True)
class SwapTime:
    """Nanoseconds over blocks, out and back in."""

    out: Line
    back: Line
    note: str
    """Where they come from, in words."""
    most_blocks: float | None = None
    """That were measured at once; None for the model."""

    @classmethod
    def of_link(cls, link: HostLink, *, block_bytes: int, efficiency: float = 1.0) -> SwapTime:
        """`block_bytes` are those of one GPU; see above."""
        block_ns = 1e9 * block_bytes / (efficiency * link.bytes_per_s)
        line = Line([0], [float(link.latency_ns)], tail=block_ns)
        return cls(
            line,
            line,
            f"swaps are modelled: {link.name}, {link.bytes_per_s / 1e9:g} GB/s a direction x"
            f" {efficiency:g}, {link.latency_ns / 1e3:g} us a call",
        )

    def ns(self, out_blocks: Counts, in_blocks: Counts) -> Nanoseconds:
        """int64, in the shape of the two; see `LatencyModel.swap`."""
        total = np.zeros(np.broadcast_shapes(np.shape(out_blocks), np.shape(in_blocks)))
        for line, blocks in ((self.out, out_blocks), (self.back, in_blocks)):
            counts = np.asarray(blocks)
            total = total + np.where(counts, line.at_many(counts), 0.0)
        return np.rint(total).astype(np.int64)


class PricesSwaps:
    """What latency models of steps without swaps have in common: these come on top."""

    swaps: SwapTime | None = None
    """To be given where sequences are swapped."""

    def swap(self, out_blocks: Counts, in_blocks: Counts) -> Nanoseconds:
        blocks = np.add(out_blocks, in_blocks, dtype=np.int64)
        if self.swaps is None:
            assert not blocks.any(), "swaps have no price"
            return blocks
        return self.swaps.ns(out_blocks, in_blocks)
