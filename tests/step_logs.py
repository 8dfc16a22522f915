"""Step logs as tests need them: made of known prices, or those that come with the tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from calibrate.step_log import FEATURES, StepLog, read_step_log
from calibrate.step_model import Curve, Prices
from traces.file import TraceFile

SAMPLE = Path(__file__).parent / "data" / "vllm-cpu"
"""The first 464 steps of a recorded run of vLLM 0.32 on two CPU cores, and their requests."""

# Milliseconds over 1, 2, 3, 4 tokens as they were measured on a CPU.
BUMPY = Curve((1, 2, 3, 4, 64, 256), (11.4e6, 20.1e6, 22.8e6, 16.8e6, 30e6, 80e6))
PRICES = Prices(curve=BUMPY, decode_ns=2e5, context_token_ns=900.0, chunk_ns=7e5, pair_ns=250.0)


def sample() -> StepLog:
    return read_step_log(TraceFile(SAMPLE / "steps.csv"))


def log_of(features: ArrayLike, duration_ns: ArrayLike) -> StepLog:
    rows = np.asarray(features, dtype=np.float64).reshape(-1, len(FEATURES))
    return StepLog(
        name="made.csv",
        columns={},
        line=np.arange(len(rows)) + 2,
        duration_ns=np.asarray(duration_ns, dtype=np.float64),
        features=rows,
        known=FEATURES,
        host_ns=50_000,
        notes=Counter(),
    )


def draw_log(steps: int, *, seed: int = 0, noise: float = 0.0, prices: Prices = PRICES) -> StepLog:
    """Random steps of decodes, prompt chunks or both; `noise` is the sigma of a lognormal of
    mean 1."""
    rng = np.random.default_rng(seed)
    decodes = rng.integers(0, 25, steps)
    chunks = np.where(decodes == 0, 1, rng.integers(0, 3, steps))
    of_chunks = chunks * rng.integers(2, 100, steps)
    context = decodes * rng.integers(1, 400, steps)
    area = of_chunks * rng.integers(1, 400, steps)
    features = np.column_stack([decodes + of_chunks, decodes, context, chunks, area]).astype(float)
    spread = rng.lognormal(-(noise**2) / 2, noise, steps)
    return log_of(features, prices.engine_ns(*features.T) * spread)
