"""Python's garbage collector, out of the way."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected(*, stays: bool = False) -> Iterator[None]:
    """It waits: a simulation leaves next to nothing that only it could free (a test counts), and
    to look through all requests and blocks again and again costs up to a sixth of a run.

    With `stays` what is new counts as old afterwards, or all of it would be looked through at once.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if stays:
            gc.freeze()
            gc.unfreeze()
        if enabled:
            gc.enable()
