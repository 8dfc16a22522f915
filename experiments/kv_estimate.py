"""How many KV blocks our own arithmetic gives the engine of a case, beside how many it had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.case import Case
from experiments.fidelity import error_pct

if TYPE_CHECKING:
    from experiments.deployment import Deployment

_UNCERTAIN = "uncertain"


def estimate_blocks(case: Case, deployment: Deployment) -> dict[str, Any] | None:
    """`derived` and `recorded` blocks (the null block included; `recorded` is None where the
    case does not say), `used` by the run, and the bytes of the terms that are `uncertain`.

    None where the case names no model or GPU that is known: nothing can be derived.
    """
    from experiments.deployment import resolve

    config = deployment.config
    if deployment.model is None or deployment.device is None:
        return None
    # A max_model_len that was settled by the recorded blocks may be too long for the derived ones.
    engine = config.engine.model_copy(
        update={"num_gpu_blocks_override": None, "max_model_len": None}
    )
    try:
        plan = resolve(config.model_copy(update={"engine": engine})).memory
    except ValueError:  # it does not fit as far as we know; the engine knew better
        return None
    assert plan is not None
    recorded = case.num_gpu_blocks
    return {
        "derived": plan.num_blocks,
        "recorded": recorded,
        "error_pct": None if recorded is None else error_pct(plan.num_blocks, recorded),
        "used": deployment.num_gpu_blocks,
        "uncertain": {
            row.term: {"bytes": row.bytes, "blocks": row.bytes / plan.block.bytes}
            for row in plan.rows()
            if _UNCERTAIN in row.derivation
        },
    }
