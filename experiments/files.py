"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.errors import ResultError


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it at the end, and removed on any error.

    It ends as `path` does. Raises ResultError where the folder cannot be written.
    """
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        raise ResultError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        unfinished.unlink(missing_ok=True)
