"""Files that a user names: checked before anything runs, complete or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.errors import ConfigError, ResultError


def check_file(path: Path | None, *, option: str, suffixes: tuple[str, ...]) -> None:
    """Raise ConfigError where the name, if there is one, cannot be that of such a file."""
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{option}: found {path}; allowed: a name in {' '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{option}: found {path}; allowed: a file in a folder that exists")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A draft beside a file, which takes its name when it is complete. Raises ResultError."""
    draft = path.with_name(f".{path.stem}-{os.getpid()}.tmp{path.suffix}")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        raise ResultError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        draft.unlink(missing_ok=True)
