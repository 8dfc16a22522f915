"""The files beside the checkout that no clone has: real traces and recorded runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"

# In CI a missing folder is an error: tests that silently skip protect nothing.
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir() and not os.environ.get("CI"),
    reason=f"the real traces are not there: {SHARED}",
)
