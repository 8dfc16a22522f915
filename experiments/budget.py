"""What each effect is worth: a case predicted again with one of them switched off at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from experiments.case import Case
from experiments.case_clock import Choice, Setting, set_up
from experiments.case_serve import serve
from experiments.fidelity import compare
from sim.scheduling.versions import VERSIONS

_SMALLER_POOL = 2588 / 2960
"""Two block counts that are in circulation for one run of an RTX 4090."""


class Switch(NamedTuple):
    effect: str
    overrides: tuple[str, ...]
    host_ns: int | None = None
    """Instead of the run's."""


def list_budget(case: Case, choice: Choice, base: Setting) -> Iterator[dict[str, Any]]:
    """`effect`, how it was switched (`set`), and what `compare` says of the run without it.

    A switch that the config refuses has `refused` instead, with the reason.
    """
    for switch in _list_switches(case, base, choice):
        told = {"effect": switch.effect, "set": list(switch.overrides)}
        host_ns = choice.host_ns if switch.host_ns is None else switch.host_ns
        changed = replace(choice, overrides=(*choice.overrides, *switch.overrides), host_ns=host_ns)
        try:
            setting = set_up(case, changed)
        except ValueError as error:
            yield {**told, "refused": str(error)}
            continue
        served = serve(case, setting.deployment, setting.build(None), requests=setting.requests)
        yield {**told, **compare(case.real, served.predicted)}


def _list_switches(case: Case, base: Setting, choice: Choice) -> Iterator[Switch]:
    """Those that change something here."""
    engine = base.deployment.config.engine
    launched = any(override.startswith("latency.launch_ns=") for override in choice.overrides)
    if launched:
        yield Switch("no launch time", ("latency.launch_ns=0",))
    elif base.kind != "replay":
        yield Switch("no host time", (), host_ns=0)
    if base.kind in ("profile", "aiconfigurator"):
        yield Switch("no skew of decodes", ("latency.skew=false",))
        if base.kind == "aiconfigurator":
            yield Switch("no modelled attention", ("latency.modelled_attention=false",))
        if case.capture_sizes:
            effect = "no graphs: all steps launched" if launched else "no graph padding"
            yield Switch(effect, ("latency.capture_sizes=null",))
    if engine.async_scheduling:
        yield Switch("one batch at a time", ("engine.async_scheduling=false",))
    if engine.enable_prefix_caching:
        yield Switch("no prefix cache", ("engine.enable_prefix_caching=false",))
    if engine.scheduler_reserve_full_isl:
        yield Switch("no whole-sequence gate", ("engine.scheduler_reserve_full_isl=false",))
    fewer = int(base.deployment.num_gpu_blocks * _SMALLER_POOL)
    yield Switch("1/8 fewer KV blocks", (f"engine.num_gpu_blocks_override={fewer}",))
    newest = next(iter(VERSIONS))
    if engine.scheduler.version != newest:
        yield Switch(f"rules of vLLM {newest}", (f"engine.scheduler.version={newest}",))
