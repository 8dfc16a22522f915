"""What changed in vLLM's synchronous scheduling from version to version.

Read from the PyPI wheels; 0.33 is confirmed by recorded runs of the real scheduler, 0.32 by
the step logs of a real engine. docs/reference/vllm-rules.md has the whole list.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.kv.pool import FreeOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The decisions on which versions differ; the defaults are those of 0.33."""

    free_order: FreeOrder = "unkeyed_first"
    """Where released blocks queue; "all_last" until 0.23."""
    self_preemption_stops: bool = False
    """Under the priority policy, a sequence that preempts itself ends the walk over the
    running list, and whoever stands behind it computes nothing in this step; until 0.32."""
    lone_request_exempt: bool = True
    """A request that is alone ignores long_prefill_token_threshold; since 0.31."""
    has_watermark: bool = True
    """The option `watermark` exists; since 0.24."""


VERSIONS: dict[str, Rules] = {
    "0.33": Rules(),
    "0.32": Rules(self_preemption_stops=True),
    "0.19": Rules(
        free_order="all_last",
        self_preemption_stops=True,
        lone_request_exempt=False,
        has_watermark=False,
    ),
}
