"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it at the end, and removed on any error.

    It ends as `path` does. Raises OSError where it cannot be renamed.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """What to write a file's bytes to; gzipped where its name ends in .gz.

    Equal content gives equal bytes. Raises OSError where the folder cannot be written.
    """
    with unfinished(path) as temporary, temporary.open("wb") as raw:
        if path.suffix == ".gz":
            # Without a time stamp and a name in its header, equal content is equal bytes.
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped:
                yield cast(IO[bytes], zipped)
        else:
            yield raw
