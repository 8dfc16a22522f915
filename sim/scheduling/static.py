"""Static batching: nobody joins a batch that has begun, and the next one waits for its last answer.

What servers did before continuous batching (Yu et al., Orca, OSDI 2022, call it request-level
scheduling). A batch is what one step admits: give max_num_batched_tokens room for all of its
prompts. Answers are returned, and memory freed, as each of them ends; seats stay empty.
"""

from __future__ import annotations

from sim.plan import Limit, Plan
from sim.scheduling.vllm import VllmScheduler


class StaticBatching(VllmScheduler):
    """Decides as vLLM's scheduler does, but admits only where nobody runs."""

    def _admit_waiting(self, plan: Plan, cap: int, budget: int) -> Limit:
        if self.running and len(self.order):
            return Limit.SEATS
        return super()._admit_waiting(plan, cap, budget)
