"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """What to write a file's bytes to; gzipped where its name ends in .gz.

    Equal content gives equal bytes. Raises OSError where the folder cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as raw:
            if path.suffix == ".gz":
                # Without a time stamp and a name in its header, equal content is equal bytes.
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped:
                    yield cast(IO[bytes], zipped)
            else:
                yield raw
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
