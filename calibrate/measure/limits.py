"""How far the grid goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The ends of its axes."""

    tokens: int
    """Scheduled in one step."""
    batch: int
    """Decodes in one step."""
    context: int
    """Of one sequence."""
    pool_tokens: Mapping[str, int]
    """What the KV cache of all layers holds, by format: no step can read more."""
