"""What a step costs: the face of every latency model, and two that need no table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sim.plan import Plan

Nanoseconds = NDArray[np.int64]
Counts = int | NDArray[np.int64]

LONGEST_STRETCH = 1024
"""Steps that a latency model is asked for at once; bounds what an arrival can waste."""


class LatencyModel(Protocol):
    """Nanoseconds for a plan. What is asked at once costs what it costs one by one, bit for
    bit (`check_latency_model`)."""

    source: str
    """Where the numbers come from, in words a user understands; shown with every result."""
    modelled: bool
    """True where no measurement stands behind the numbers (a roofline)."""
    host_ns: int
    """Host time of every step during which the accelerator idles; part of `durations`."""
    knows_alone: bool
    """False where nothing is known of a chunk by itself (recorded durations)."""

    def durations(self, plan: Plan, k: int) -> list[int]:
        """Durations of the plan's step and of the k - 1 that repeat it (or of as many of them,
        at least one, as are known).

        In the j-th step (j = 0 .. k - 1) every decode's context is j tokens longer.
        Chunks are priced in every step alike: a plan with chunks is asked with k = 1
        unless a policy proved that the chunk repeats. Copies are made before the first step.
        Swaps come on top (`swap`).
        """
        ...

    def swap(self, out_blocks: Counts, in_blocks: Counts) -> Nanoseconds:
        """Engine time of copying so many blocks to the host, and then so many back, int64, in
        the shape of the two; 0 where both are 0.
        """
        ...

    def alone(self, computed_before: Counts, n: Counts) -> Nanoseconds:
        """Engine time of each chunk of n tokens with nothing beside it, int64, in the shape
        of the two. Without host time; 0 where n is 0.
        """
        ...


class Linear:
    """step = base + per_token * scheduled tokens + per_context_token * context
    + per_copied_block * copies + per_swapped_block * blocks swapped out or in.

    Context is the sum over rows of computed_before + n. Integer coefficients, hence exact;
    for teaching, and the rule under which the recorded vLLM runs were made.
    """

    modelled = True
    host_ns = 0
    knows_alone = True

    def __init__(
        self,
        *,
        base_ns: int,
        per_token_ns: int,
        per_context_token_ns: int,
        per_copied_block_ns: int = 0,
        per_swapped_block_ns: int = 0,
    ) -> None:
        self.base_ns = base_ns
        self.per_token_ns = per_token_ns
        self.per_context_token_ns = per_context_token_ns
        self.per_copied_block_ns = per_copied_block_ns
        self.per_swapped_block_ns = per_swapped_block_ns
        self.source = (
            f"linear: {base_ns} ns + {per_token_ns} ns per token"
            f" + {per_context_token_ns} ns per token of context"
        )
        if per_copied_block_ns:
            self.source += f" + {per_copied_block_ns} ns per copied block"
        if per_swapped_block_ns:
            self.source += f" + {per_swapped_block_ns} ns per swapped block"

    def durations(self, plan: Plan, k: int) -> list[int]:
        decodes = plan.decodes
        tokens = num_decodes = len(decodes)
        context = decodes.context_sum
        for _, computed_before, n in plan.chunks:
            tokens += n
            context += computed_before + n
        first = self.base_ns + self.per_token_ns * tokens + self.per_context_token_ns * context
        growth = self.per_context_token_ns * num_decodes
        durations = list(range(first, first + k * growth, growth)) if growth else [first] * k
        if plan.copies:
            durations[0] += self.per_copied_block_ns * len(plan.copies)
        return durations

    def swap(self, out_blocks: Counts, in_blocks: Counts) -> Nanoseconds:
        return self.per_swapped_block_ns * np.add(out_blocks, in_blocks, dtype=np.int64)

    def alone(self, computed_before: Counts, n: Counts) -> Nanoseconds:
        context = computed_before + n
        chunk_ns = self.base_ns + self.per_token_ns * n + self.per_context_token_ns * context
        return np.where(n, chunk_ns, 0)


class WholeSteps:
    """What clocks of whole steps, recorded or measured, have in common: nothing is known of a chunk
    by itself, nor of swaps."""

    modelled = False
    host_ns = 0
    knows_alone = False

    def alone(self, computed_before: Counts, n: Counts) -> Nanoseconds:
        return np.zeros(np.broadcast_shapes(np.shape(computed_before), np.shape(n)), dtype=np.int64)

    def swap(self, out_blocks: Counts, in_blocks: Counts) -> Nanoseconds:
        return self.alone(out_blocks, in_blocks)


class Replay(WholeSteps):
    """Recorded step durations; for replaying a real engine's log.

    Step i of a plan costs the i-th recorded duration, whatever the plan holds. Raises
    IndexError with the step's number when the run outlives the recording: its decisions
    have then left the recorded ones.
    """

    def __init__(self, recorded_ns: list[int], *, source: str) -> None:
        self._recorded_ns = recorded_ns
        self.source = f"replay of {len(recorded_ns)} recorded steps: {source}"

    def durations(self, plan: Plan, k: int) -> list[int]:
        steps = self._recorded_ns[plan.step : plan.step + k]
        if not steps:
            known = len(self._recorded_ns)
            raise IndexError(f"step {plan.step} is beyond the {known} recorded steps")
        return steps
