"""Describing, running and reading runs. `experiments.load(path)` reads a result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.results import RunResult

__all__ = ["load"]


def load(path: str | Path) -> RunResult:
    """A finished run, by the folder that `python -m experiments.run` printed.

    Its tables are tidy frames (`result.requests`), beside `result.summary` and
    `result.config`. Raises ResultError, a ValueError, where there is no finished run.
    """
    from experiments.results import load_result  # pandas is slow to import

    return load_result(path)
