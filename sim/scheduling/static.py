"""Static batching: nobody joins a batch that has begun, and the next one waits for its last answer.

What servers did before continuous batching (Yu et al., Orca, OSDI 2022, call it request-level
scheduling). Answers are returned, and memory freed, as each of them ends; seats stay empty.
"""

from __future__ import annotations

from sim.plan import Limit, Plan
from sim.scheduling.vllm import VllmScheduler


class StaticBatching(VllmScheduler):
    """Decides as vLLM's scheduler does, but closes a batch as soon as anything but the step's
    token budget keeps the next request out: a batch may take several steps to form."""

    _forming = True

    def _admit_waiting(self, plan: Plan, cap: int, budget: int) -> Limit:
        self._forming |= not self.running
        if not self._forming:
            return self._shut()
        limit = super()._admit_waiting(plan, cap, budget)
        self._forming = limit == Limit.TOKENS
        return limit

    def _shut(self) -> Limit:
        """What closes a step while the batch is complete."""
        return Limit.SEATS if len(self.order) else Limit.NONE
