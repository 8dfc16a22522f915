"""Results on disk: complete under their name, or not there at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from experiments.errors import NO_ROOM, ResultError
from experiments.identity import read_versions
from experiments.tables import TABLES, make_schema

SUMMARY, CONFIG, FIGURES = "summary.json", "config.yaml", "figures"
DURATIONS = "durations.csv"
"""Of every step, where one replica executed them: `latency.kind: replay` reads it."""
STUDY = "study.json"
CAPACITY = "capacity.json"
_OF_RUNS = (STUDY, CAPACITY)
"""What a folder about several runs has, beside those of the runs."""
_FILES = (SUMMARY, CONFIG, *(f"{table}.parquet" for table in TABLES))


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run. Its tables are read as they are asked for: `result.requests`."""

    path: Path
    summary: dict[str, Any]
    config: dict[str, Any]
    """As resolved: nothing is left open."""

    def __getattr__(self, table: str) -> pd.DataFrame:
        if table not in TABLES:
            raise AttributeError(f"no table {table!r}; there are {', '.join(TABLES)}")
        return self[table]

    def __getitem__(self, table: str) -> pd.DataFrame:
        """One table. KeyError for one that does not exist."""
        if table not in TABLES:
            raise KeyError(table)
        frame: pd.DataFrame = pq.read_table(self.path / f"{table}.parquet").to_pandas()
        return frame

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """All tables by name."""
        return {table: self[table] for table in TABLES}


def load_result(path: str | Path) -> RunResult:
    """Read what a run left in its folder. Raises ResultError where there is no such run."""
    path = Path(path)
    for name in _OF_RUNS:
        if (path / name).is_file():
            raise ResultError(f"{path}: compares runs; allowed: one of those that its {name} names")
    try:
        summary = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
        config = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ResultError(f"{path}: not the folder of a finished run ({error})") from None
    if lacking := [name for name in _FILES if not (path / name).is_file()]:
        raise ResultError(f"{path}: not the folder of a finished run (no {', '.join(lacking)})")
    return RunResult(path=path, summary=summary, config=config)


def is_finished(path: Path) -> bool:
    """Whether everything is there: what was published whole may have been thinned out since."""
    return all((path / name).is_file() for name in _FILES)


class Draft:
    """A result in the making: a hidden folder beside the final one, renamed when complete.

    A context manager: whatever is not published when it ends is deleted. A process that is
    killed outright leaves its draft behind; the next one on this host to write the same run
    removes it. Raises ResultError where the folder cannot be written, or has no room.
    """

    def __init__(self, out: Path, *, run_id: str) -> None:
        self.final = out / run_id
        self._leftovers = f".{run_id}.{socket.gethostname()}-"
        self.path = out / f"{self._leftovers}{os.getpid()}.tmp"

    def __enter__(self) -> Self:
        try:
            self.final.parent.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            self.path.mkdir()
        except OSError as error:
            raise ResultError(_unwritable(self.final.parent, error)) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise ResultError(_unwritable(self.final, error)) from None

    def write_tables(
        self, frames: Mapping[str, pd.DataFrame], *, config: Mapping[str, Any]
    ) -> None:
        """`<table>.parquet` for each, with units, config and versions in their metadata."""
        metadata = {
            "pagesim.config": json.dumps(config, sort_keys=True),
            "pagesim.versions": json.dumps(read_versions()),
            "pagesim.run": self.final.name,
        }
        for name, frame in frames.items():
            schema = make_schema(name, metadata=metadata)
            table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
            pq.write_table(table.cast(schema), self.path / f"{name}.parquet", compression="zstd")

    def write_texts(self, summary: Mapping[str, Any], *, config: Mapping[str, Any]) -> None:
        resolved = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        (self.path / CONFIG).write_text(resolved, encoding="utf-8")
        self.write_json(SUMMARY, summary)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2, allow_nan=False)
        (self.path / name).write_text(text + "\n", encoding="utf-8")

    def publish(self) -> None:
        """Give the draft its final name, in place of an earlier result of that name.

        Another process may publish the same run meanwhile: the later one stays.
        """
        try:
            while not self._take_name():
                pass
        except OSError as error:
            raise ResultError(_unwritable(self.final, error)) from None

    def _take_name(self) -> bool:
        """Whether it was free, once what had it is gone."""
        replaced = self.path.with_suffix(".old.tmp")
        with suppress(FileNotFoundError):
            self.final.rename(replaced)
        try:
            self.path.rename(self.final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with suppress(OSError):
                    replaced.rename(self.final)
                raise
            return False
        finally:
            shutil.rmtree(replaced, ignore_errors=True)
        return True

    def _remove_leftovers(self) -> None:
        for folder in self.final.parent.glob(f"{self._leftovers}*.tmp"):
            pid = folder.name.removeprefix(self._leftovers).partition(".")[0]
            if pid.isdigit() and not _runs(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def _unwritable(path: Path, error: OSError) -> str:
    why = os.strerror(error.errno) if error.errno else error
    return f"{path}: cannot be written ({why})"
