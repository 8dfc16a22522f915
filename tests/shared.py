"""What tests share on disk: files beside the checkout that no clone has, and what is compiled."""

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


def extensions_folder(factory: pytest.TempPathFactory) -> Path:
    """Where torch compiles to in this run of the tests: once for all its processes."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "torch_extensions"
    folder.mkdir(exist_ok=True)
    return folder
