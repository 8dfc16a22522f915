"""Five regimes of load, as configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from experiments.config import Config, parse_config
from experiments.executor_config import RealKernels

Regime = Literal["light", "knee", "overload", "pressure", "hits"]
REGIMES: tuple[Regime, ...] = get_args(Regime)
LOADS: dict[Regime, float] = {
    "light": 0.3,
    "knee": 0.85,
    "overload": 1.5,
    "pressure": 1.5,
    "hits": 0.85,
}
"""The time that a trace takes to be served when all of it comes at once, by the clock of its own
pilot, over the time in which it comes."""
_FEW_BLOCKS = 3
"""Under memory pressure: room for so many sequences of max_model_len."""
_SHARED_TOKENS = 96

ENGINE: dict[str, Any] = {
    "block_size": 16,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 256,
    "max_model_len": 512,
    "num_gpu_blocks_override": 520,
}
LENGTHS: dict[str, Any] = {
    "prompt": {"kind": "lognormal", "median": 60, "sigma": 0.9, "max": 300},
    "output": {"kind": "lognormal", "median": 24, "sigma": 0.7, "max": 120},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What trials run on."""

    kernels: RealKernels
    kv_cache_dtype: str = "auto"
    requests: int = 150
    seed: int = 0

    def config(self, regime: Regime, *, rate: float | None) -> Config:
        """`rate`: of arrivals, in requests/s; None: all at once."""
        arrivals: dict[str, Any] = {"kind": "at_once"}
        if rate is not None:
            arrivals = {"kind": "poisson", "rate": rate}
        engine = dict(ENGINE)
        if regime == "pressure":
            engine["num_gpu_blocks_override"] = 1 + _FEW_BLOCKS * ENGINE["max_model_len"] // 16
        sharing: dict[str, Any] = {"kind": "none"}
        if regime == "hits":
            sharing = {"kind": "system_prompts", "count": 3, "tokens": _SHARED_TOKENS}
        trace = {
            "kind": "synthetic",
            "requests": self.requests,
            "arrivals": arrivals,
            "lengths": {"kind": "independent", **LENGTHS},
            "sharing": sharing,
        }
        return parse_config(
            {
                "name": regime,
                "engine": {**engine, "kv_cache_dtype": self.kv_cache_dtype},
                "executor": self.kernels.model_dump(),
                "trace": trace,
                "seed": self.seed,
            }
        )
