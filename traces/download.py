"""A file from the web, whole or not at all, and resumed where a connection broke."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

TIMEOUT_S = 30
"""Without a single byte."""

_CHUNK_BYTES = 1 << 18
_PARTIAL, _BEYOND_END = 206, 416

Watch = Callable[[int, int | None], None]
"""Told (bytes there, bytes in all or None) after every piece."""


class DownloadError(ValueError):
    """A file that could not be had, or is not the one that was asked for."""


class _Misplaced(Exception):
    """What arrives does not continue what is there."""


def download(url: str, path: Path, *, sha256: str, watch: Watch = lambda *_: None) -> None:
    """Fetch `url` to `path`, which appears only when its sha256 (hex) is the one given.

    What has arrived is kept beside it as NAME.part and continued by the next call, if the
    server can do that (HTTP Range); otherwise the file is fetched from its beginning. So it
    is if a continued file turns out to be another one than it was begun with.

    Raises DownloadError for a server that cannot be reached, refuses, or breaks off, and for
    a wrong checksum, after which nothing is kept.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"{path.parent}: no folder to fetch to ({error.strerror})") from None
    try:
        continued = part.exists() and part.stat().st_size > 0
        try:
            _receive(url, part, watch)
        except _Misplaced:
            part.unlink()
            continued = False
            _receive(url, part, watch)
        found = checksum(part)
        if found != sha256 and continued:
            part.unlink()
            _receive(url, part, watch)
            found = checksum(part)
        if found != sha256:
            part.unlink()
            raise DownloadError(
                f"{url}: found a file with sha256 {found}; allowed: {sha256}. It was not kept"
            )
        part.replace(path)
    except _Misplaced as error:
        raise DownloadError(f"{url}: {error}") from None
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"{url}: the server says {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(_say_broken(url, part, error)) from None


def checksum(path: Path) -> str:
    """The sha256 of a file, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _receive(url: str, part: Path, watch: Watch) -> None:
    """Append to `part` what it lacks, or write all of it where the server knows no ranges."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "pagesim"})
    if there:
        request.add_header("Range", f"bytes={there}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            if response.status != _PARTIAL:
                there = 0
            elif _start(response.headers.get("Content-Range")) != there:
                raise _Misplaced("the server sends another part of the file than was asked for")
            length = response.headers.get("Content-Length")
            total = None if length is None else there + int(length)
            with part.open("ab" if there else "wb") as file:
                _copy(response, file, there, total, watch)
    except urllib.error.HTTPError as error:
        # Nothing lies beyond a file that is already complete, or longer than it should be.
        if error.code != _BEYOND_END or not there:
            raise
        error.close()
        if _total(error.headers.get("Content-Range")) != there:
            raise _Misplaced("what is there does not fit the file") from None


def _copy(
    source: http.client.HTTPResponse, file: IO[bytes], there: int, total: int | None, watch: Watch
) -> None:
    watch(there, total)
    while chunk := source.read(_CHUNK_BYTES):
        file.write(chunk)
        there += len(chunk)
        watch(there, total)
    if total is not None and there < total:
        raise http.client.IncompleteRead(b"", total - there)


def _start(content_range: str | None) -> int | None:
    match = re.match(r"bytes (\d+)-", content_range or "")
    return int(match[1]) if match else None


def _total(content_range: str | None) -> int | None:
    match = re.fullmatch(r"bytes \*/(\d+)", content_range or "")
    return int(match[1]) if match else None


def _say_broken(url: str, part: Path, error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error) or type(error).__name__
    said = f"{url}: {reason}"
    if part.exists() and (size := part.stat().st_size):
        said += f"; {size:,} bytes are kept in {part}: the same command goes on from there"
    return said
