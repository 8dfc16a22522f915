"""Files that appear under their name only when they are complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.errors import ResultError
from traces.unfinished import unfinished


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it at the end, and removed on any error.

    It ends as `path` does. Raises ResultError where the folder cannot be written.
    """
    try:
        with unfinished(path) as temporary:
            yield temporary
    except OSError as error:
        raise ResultError(f"{path}: cannot be written ({error.strerror})") from None
