"""Who runs the steps: a clock's arithmetic, or real kernels."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from experiments.section import Section, by_kind, refuse


def _check_device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        refuse(f"found {name!r}; allowed: cpu, cuda, or one of several: cuda:0, cuda:1, ...")
    return name


class SimulatedExecutor(Section):
    """Nothing is computed; `latency` says how long it would have taken."""

    kind: Literal["simulated"] = "simulated"


class RealKernels(Section):
    """Steps are computed by real kernels, on a model with random weights and a real KV pool, and
    take the time that was measured. Needs `pip install "pagesim[calibrate]"`."""

    kind: Literal["kernels"]
    model: str | None = None
    """Whose shape is run: tiny (2 layers, for trying things out), a shipped model's name, or the
    path of a Hugging Face config.json; null: the config's own model."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Of weights and activations, and of the KV cache where engine.kv_cache_dtype is auto."""
    device: Annotated[str, AfterValidator(_check_device)] = "cpu"
    """cpu (times are CPU time of one thread), cuda or cuda:1 (wall time)."""
    provider: str = "torch"
    """Of the kernels: torch, triton, cpp or flashinfer; what one does not have is torch's."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Tokens are drawn at this temperature; 0: the likeliest is taken."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Of weights, prompts and draws; null: the config's own."""


Executor = Annotated[
    SimulatedExecutor | RealKernels,
    BeforeValidator(by_kind("simulated")),
    Field(discriminator="kind"),
]
