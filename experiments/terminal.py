"""The screen that reports are printed on, and the bars of long work."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

_PIPE_COLUMNS = 100

Item = TypeVar("Item")


def open_screen() -> Console:
    """Standard output: as wide as the terminal, and as tables need it where there is none."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)


def count_aloud(
    items: Iterable[Item], description: str, *, total: int | None = None
) -> Iterable[Item]:
    """The items, with a bar (or a count, where nobody knows the end) if stderr is a terminal."""
    errors = Console(stderr=True)
    return track(
        items,
        description=description,
        total=total,
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
