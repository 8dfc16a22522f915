"""The screen that reports are printed on."""

from __future__ import annotations

import sys

from rich.console import Console

_PIPE_COLUMNS = 100


def open_screen() -> Console:
    """Standard output: as wide as the terminal, and as tables need it where there is none."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
