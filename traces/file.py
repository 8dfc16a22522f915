"""A trace's file: its lines, its bytes, and errors that point into it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from traces.schema import TraceError

_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"
_CHUNK_BYTES = 1 << 20
_LONGEST_HEAD_LINE = 1 << 22
"""Characters: enough for a prompt of 500,000 token ids on one line."""


class Head(NamedTuple):
    """How a file begins: enough to tell its format, however large it is."""

    parquet: bool
    lines: tuple[str, ...]
    """Up to two lines that are not blank, each cut after 4 Mi characters."""

    @property
    def first_line(self) -> str:
        return self.lines[0] if self.lines else ""


class TraceFile:
    """A UTF-8 text file, plain or gzip (told by its first bytes), read line by line.

    Every method raises TraceError when the file is missing, a folder, unreadable, a
    damaged gzip or not text.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def lines(self) -> Iterator[tuple[int, str]]:
        """(number from 1, line without its end), for LF, CRLF or CR line ends."""
        with self.text() as text:
            for number, line in enumerate(text, 1):
                yield number, line.rstrip("\n")

    def head(self) -> Head:
        with self.bytes() as raw:
            if raw.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC:
                return Head(True, ())
        lines: list[str] = []
        with self.text() as text:
            while len(lines) < 2 and (line := text.readline(_LONGEST_HEAD_LINE)):
                if line.strip():
                    lines.append(line.rstrip("\n"))
        return Head(False, tuple(lines))

    def fingerprint(self, reader: str, **parameters: object) -> str:
        """Sha256 (hex) of the reader, its parameters and the file's (unzipped) bytes."""
        digest = hashlib.sha256(json.dumps([reader, parameters], sort_keys=True).encode())
        with self.bytes() as raw:
            while chunk := raw.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def error(self, line: int | None, *, found: str, allowed: str) -> TraceError:
        return TraceError(self.path, line, found, allowed)

    @contextmanager
    def text(self) -> Iterator[io.TextIOWrapper]:
        # utf-8-sig: spreadsheets put a byte order mark before the header.
        with self.bytes() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as text:
            yield text

    @contextmanager
    def bytes(self) -> Iterator[gzip.GzipFile | io.BufferedReader]:
        """The file's bytes, unzipped."""
        allowed = "a UTF-8 text file, plain or gzip"
        try:
            with self.path.open("rb") as plain:
                if plain.peek(2).startswith(_GZIP_MAGIC):
                    with gzip.open(plain) as unzipped:
                        yield unzipped
                else:
                    yield plain
        except FileNotFoundError:
            raise self.error(None, found="no such file", allowed=allowed) from None
        except IsADirectoryError:
            raise self.error(None, found="a folder", allowed=allowed) from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self.error(None, found=f"a damaged gzip ({error})", allowed=allowed) from error
        except UnicodeDecodeError as error:
            raise self.error(
                None, found=f"bytes that are no text ({error})", allowed=allowed
            ) from error
        except OSError as error:
            found = f"a file that cannot be read ({error.strerror})"
            raise self.error(None, found=found, allowed=allowed) from error
