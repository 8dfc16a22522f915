"""Where the token slots of the KV pool went, and what the prefix cache gave."""

from __future__ import annotations

from typing import Any

import pandas as pd

from experiments.context import Deployment, Frames
from sim.record.memory import Slots

POOL_PARTS = Slots._fields[:-1]
"""The parts that sum to the pool; `savings` stands beside them."""


def count_pool_slots(deployment: Deployment) -> int:
    """Token slots of one replica's pool, the null block's included."""
    return deployment["num_gpu_blocks"] * deployment["block_size"]


def share_memory(
    memory: pd.DataFrame, *, slot_ns: list[list[int]], deployment: Deployment
) -> dict[str, Any]:
    """Time-weighted shares of the pool, over the time that steps ran, all replicas together.

    `savings` are the slots that sharing made unnecessary, as a share of the pool, beside the
    sum. `peak_used_share` is the fullest that any replica was: within a row of `steps` use
    only grows, so its first and last steps tell.
    """
    pool = count_pool_slots(deployment)
    of_all = zip(*slot_ns, strict=True)
    total = {part: sum(values) for part, values in zip(Slots._fields, of_all, strict=True)}
    pool_ns = sum(total[part] for part in POOL_PARTS)
    used = memory[["used_first_slots", "used_last_slots"]].to_numpy()
    return {
        "pool_slots": pool,
        "num_gpu_blocks": deployment["num_gpu_blocks"],
        "block_size": deployment["block_size"],
        "share_of_pool": {part: total[part] / pool_ns if pool_ns else None for part in POOL_PARTS},
        "savings_share": total["savings"] / pool_ns if pool_ns else None,
        "peak_used_share": int(used.max()) / pool if used.size else None,
        "device_memory": deployment.get("memory", []),
    }


def count_prefix_hits(frames: Frames) -> dict[str, Any]:
    """How much of the prompts was found in the cache when they were first admitted."""
    requests = frames["requests"]
    hit, prompt = int(requests["hit_tokens"].sum()), int(requests["prompt_tokens"].sum())
    return {
        "hit_tokens": hit,
        "prompt_tokens": prompt,
        "hit_rate": hit / prompt if prompt else None,
        "evicted_blocks": int(frames["steps"]["evicted_blocks"].sum()),
    }
