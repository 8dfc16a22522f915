"""Public traces that can be fetched by name, each pinned to one version by its sha256."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One file of a public data set."""

    name: str
    url: str
    sha256: str
    """Of the file's bytes, in hex,"""
    checksum_source: str
    """and how it is known."""
    size_bytes: int | None
    """For display; None where nobody says."""
    licence: str
    citation: str
    format: str
    about: str
    config: str | None
    """A config under which it can be run as it is."""

    @property
    def filename(self) -> str:
        return self.url.rpartition("/")[2]


def load_datasets() -> dict[str, Dataset]:
    """All of them, by name."""
    text = files("traces").joinpath("datasets.json").read_text(encoding="utf-8")
    return {name: Dataset(name=name, **row) for name, row in json.loads(text).items()}


def cache_folder(
    environment: Mapping[str, str] = os.environ, *, platform: str = sys.platform
) -> Path:
    """Where this platform keeps what can be fetched again; XDG_CACHE_HOME wins everywhere."""
    if stated := environment.get("XDG_CACHE_HOME"):
        base = Path(stated)
    elif platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif platform == "win32" and (local := environment.get("LOCALAPPDATA")):
        base = Path(local)
    else:
        base = Path.home() / ".cache"
    return base / "pagesim" / "traces"
