"""The files of aiconfigurator-core's wheel: where they are, and rows of them."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from calibrate.importers.profile_file import need
from calibrate.table_schema import TableError

DISTRIBUTION = "aiconfigurator-core"


def find_systems(path: str | Path | None) -> Path:
    """The folder `systems` of an unpacked wheel, or of the installed one. Raises TableError."""
    if path is not None:
        for folder in (Path(path), Path(path) / "aiconfigurator_core"):
            if (folder / "systems" / "data").is_dir():
                return folder / "systems"
        raise TableError(
            f"{path}: found no folder systems/data; allowed: the unpacked wheel of {DISTRIBUTION}"
        )
    try:
        found = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise TableError(
            f"{DISTRIBUTION} is not installed; allowed: pip install 'pagesim[aic]', or"
            " latency.path with the folder of its unpacked wheel"
        ) from None
    return Path(str(found.locate_file("aiconfigurator_core"))) / "systems"


def wheel_version(path: str | Path | None) -> str:
    """Of the installed wheel, behind a blank; nothing of an unpacked one, which may not tell."""
    return f" {metadata.version(DISTRIBUTION)}" if path is None else ""


def newest(folder: Path, file: str, version: str | None) -> Path:
    """A table of that version, or of the newest. Raises TableError, with what there is."""
    held = {found.parent.name: found for found in folder.glob(f"*/{file}.parquet")}
    if version is not None and version in held:
        return held[version]
    if version is not None or not held:
        raise TableError(
            f"{folder}: found no {file} of version {version or 'any'}; allowed:"
            f" {', '.join(sorted(held)) or 'none is there'}"
        )
    return held[max(held, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])]


def read_points(path: Path, columns: tuple[str, ...], **wanted: object) -> Any:
    """Rows in which every column is as wanted, or absent.

    Raises TableError where one of `columns` is missing, or no row is left.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        frame = pq.read_table(path).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: cannot be read as parquet ({error})") from None
    need(frame, path, (*columns, "latency"))
    for column, value in wanted.items():
        if column not in frame.columns:
            continue
        held = sorted(frame[column].unique().tolist())
        frame = frame[frame[column] == value]
        if frame.empty:
            said = ", ".join(map(str, held))
            raise TableError(f"{path}: found no points of {column} {value}; allowed: {said}")
    return frame
