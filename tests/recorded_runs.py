"""Where recorded runs lie: a few small ones with the tests, the rest in ../shared."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from experiments.recorded import RecordedRun, read_run
from tests.shared import SHARED

HERE = Path(__file__).parent / "recorded"
GOLDEN = SHARED / "vllm-golden"
SYNCHRONOUS = (
    "s1_fcfs_ample",
    "s2_tight_preempt",
    "s2b_tight_no_full_isl",
    "s2c_tight_watermark",
    "s3_prefix_chat",
    "s3b_prefix_tight_preempt",
    "s4_priority",
    "s4b_priority_prefix",
    "s4c_priority_burst",
    "s4d_priority_budget_return",
    "s5_no_chunked",
    "s5b_no_chunked_burst",
    "s6_long_threshold",
    "s7_bursts_same_instant",
    "s8_same_block_other_prefix",
)
IN_FLIGHT = (
    "a1_async_ample",
    "a1b_async_nosleep",
    "a2_async_tight",
    "a3_async_chat",
    "a4_async_priority",
    "a5_async_long_prompts",
    "a6_async_bursts",
    "b1_pp2_sync",
    "b2_pp4_sync_tight",
    "b3_pp2_async",
)
"""With two to four batches in flight."""
STEP_LOGS = ("q-m70", "q-m70-rep2", "q-over", "q-tight2")


@cache
def golden(name: str) -> RecordedRun:
    """A recorded run of vLLM 0.33's scheduler. Runs are read once, so do not change them."""
    folder = HERE / name
    return read_run(folder if folder.is_dir() else GOLDEN / name)
