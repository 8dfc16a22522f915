"""What a step costs: the face of every latency model, and the two that need no table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sim.plan import Plan

Nanoseconds = NDArray[np.int64]

LONGEST_STRETCH = 1024
"""Steps that a latency model is asked for at once; bounds what an arrival can waste."""


class LatencyModel(Protocol):
    """Nanoseconds for a plan. One code path: the scalar call is the vector call with k = 1."""

    source: str
    """Where the numbers come from, in words a user understands; shown with every result."""
    modelled: bool
    """True where no measurement stands behind the numbers (a roofline)."""
    host_ns: int
    """Host time of every step during which the accelerator idles; part of `durations`."""
    knows_alone: bool
    """False where nothing is known of a chunk by itself (recorded durations)."""

    def durations(self, plan: Plan, k: int) -> Nanoseconds:
        """Durations of the plan's step and of the k - 1 that repeat it, int64[k] (or of as
        many of them, at least one, as are known).

        In the j-th step (j = 0 .. k - 1) every decode's context is j tokens longer.
        Chunks are priced in every step alike: a plan with chunks is asked with k = 1
        unless a policy proved that the chunk repeats.
        """
        ...

    def alone(self, computed_before: int, n: int, k: int = 1) -> Nanoseconds:
        """Engine time of one chunk of n tokens with nothing beside it, int64[k].

        The j-th entry is the chunk that starts at computed_before + j * n. Without host
        time; 0 for n = 0.
        """
        ...


_STEPS = np.arange(LONGEST_STRETCH, dtype=np.int64)


class Linear:
    """step = base + per_token * scheduled tokens + per_context_token * context.

    Context is the sum over rows of computed_before + n. Integer coefficients, hence exact;
    for teaching, and the rule under which the recorded vLLM runs were made.
    """

    modelled = True
    host_ns = 0
    knows_alone = True

    def __init__(self, *, base_ns: int, per_token_ns: int, per_context_token_ns: int) -> None:
        self.base_ns = base_ns
        self.per_token_ns = per_token_ns
        self.per_context_token_ns = per_context_token_ns
        self.source = (
            f"linear: {base_ns} ns + {per_token_ns} ns per token"
            f" + {per_context_token_ns} ns per token of context"
        )

    def durations(self, plan: Plan, k: int) -> Nanoseconds:
        decodes = plan.decodes
        tokens = len(decodes)
        context = decodes.context_sum
        for chunk in plan.chunks:
            tokens += chunk.n
            context += chunk.computed_before + chunk.n
        first = self.base_ns + self.per_token_ns * tokens + self.per_context_token_ns * context
        growth = self.per_context_token_ns * len(decodes)
        return first + growth * _STEPS[:k]

    def alone(self, computed_before: int, n: int, k: int = 1) -> Nanoseconds:
        if n == 0:
            return np.zeros(k, dtype=np.int64)
        context = computed_before + n
        first = self.base_ns + self.per_token_ns * n + self.per_context_token_ns * context
        return first + self.per_context_token_ns * n * _STEPS[:k]


class Replay:
    """Recorded step durations; for replaying a real engine's log.

    Step i of a plan costs the i-th recorded duration, whatever the plan holds. Raises
    IndexError with the step's number when the run outlives the recording: its decisions
    have then left the recorded ones.
    """

    modelled = False
    host_ns = 0
    knows_alone = False

    def __init__(self, recorded_ns: list[int], *, source: str) -> None:
        self._recorded = np.asarray(recorded_ns, dtype=np.int64)
        self.source = f"replay of {len(recorded_ns)} recorded steps: {source}"

    def durations(self, plan: Plan, k: int) -> Nanoseconds:
        steps = self._recorded[plan.step : plan.step + k]
        if not len(steps):
            raise IndexError(f"step {plan.step} is beyond the {len(self._recorded)} recorded steps")
        return steps

    def alone(self, computed_before: int, n: int, k: int = 1) -> Nanoseconds:
        return np.zeros(k, dtype=np.int64)
