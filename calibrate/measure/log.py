"""The JSON-lines file of a measurement: written as it goes, and taken up again after a stop."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from calibrate.measure.errors import MeasureError

FORMAT = 1
"""To be raised whenever a line changes its meaning."""


class Log:
    """What has been measured so far, in memory and on disk.

    The first line is the header; `same` in it is what a measurement that goes on must share.
    A last line without its end, which a kill leaves, is cut off.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Begin the file, or go on with it. Raises MeasureError where it is of another
        measurement, damaged, or cannot be written."""
        self.path = path
        self.spent_s = 0.0
        """Of all lines."""
        self.cut: dict[str, Any] | None = None
        self.medians: dict[str, list[float]] = defaultdict(list)
        """Nanoseconds by key, one of each pass in which it was measured."""
        self.refused: set[str] = set()
        """Keys of what could not be measured."""
        self.header: Mapping[str, Any] = header
        """As it stands in the file: with the first run's limits, if this one goes on."""
        self._done: set[tuple[str, int]] = set()
        try:
            begun = path.exists() and _has_header(path)
            if begun:
                self._take_up(header)
            if path.exists():
                # Only now that it is known to be ours: nobody else's file is touched.
                _cut_tail(path)
            self._file: TextIO = path.open("a", encoding="utf-8")
        except OSError as error:
            raise MeasureError(f"{path}: {error.strerror}") from None
        if not begun:
            self._write({"kind": "header", "format": FORMAT, **header})

    def has(self, key: str, turn: int) -> bool:
        """Has this been measured, or found not to be measurable, in that pass?"""
        return (key, turn) in self._done

    def add(self, line: Mapping[str, Any]) -> None:
        """Keep a line, on disk when this returns."""
        self._write(line)
        self._note(line)

    def close(self) -> None:
        self._file.close()

    def _take_up(self, header: Mapping[str, Any]) -> None:
        lines = read_lines(self.path)
        _, first = next(lines)
        for what, wanted in header["same"].items():
            found = first.get("same", {}).get(what)
            if json.dumps(found, sort_keys=True) != json.dumps(wanted, sort_keys=True):
                raise MeasureError(
                    f"{self.path}: holds another measurement, of {what} {_short(found)};"
                    f" allowed: {_short(wanted)}, or a file that is not there"
                )
        self.header = first
        for _, line in lines:
            self._note(line)

    def _note(self, line: Mapping[str, Any]) -> None:
        self.spent_s += float(line.get("spent_s", 0.0))
        if line["kind"] == "cut":
            self.cut = dict(line)
        if "key" in line:
            self._done.add((line["key"], line["pass"]))
            if line["kind"] == "unmeasurable":
                self.refused.add(line["key"])
            elif "median_ns" in line:
                self.medians[line["key"]].append(line["median_ns"])

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, line), the header first. Raises MeasureError, with the line, for what is none;
    a last line without its end is left out."""
    with path.open(encoding="utf-8", errors="replace") as file:
        number = 0
        for number, text in enumerate(file, 1):
            if not text.endswith("\n") and number > 1:
                return
            try:
                line = json.loads(text)
            except ValueError:
                raise MeasureError(
                    f"{path}:{number}: found no JSON; allowed: a line of it"
                ) from None
            _check(path, number, line)
            yield number, line
    if not number:
        raise MeasureError(f"{path}: found an empty file; allowed: a measurement")


def say_cut(cut: dict[str, Any] | None) -> str:
    """What the budget left out, in words."""
    if not cut or not cut["points"]:
        return "the whole grid fitted the budget"
    by = ", ".join(f"{count} of {operator}" for operator, count in cut["by"].items())
    return f"cut by the budget: {cut['points']} points ({by})"


def _check(path: Path, number: int, line: Any) -> None:
    kind = line.get("kind") if isinstance(line, dict) else None
    if number == 1 and (kind != "header" or line.get("format") != FORMAT):
        raise _no_header(path)
    missing = [name for name in _FIELDS.get(str(kind), ("kind",)) if name not in line]
    if kind not in _FIELDS or missing:
        raise MeasureError(
            f"{path}:{number}: found kind {kind!r} without {', '.join(missing) or 'meaning'};"
            f" allowed: {', '.join(_FIELDS)} with all their fields"
        )


def _no_header(path: Path) -> MeasureError:
    return MeasureError(
        f"{path}:1: found no header of format {FORMAT}; allowed: what `python -m"
        " calibrate.run` writes"
    )


_FIELDS = {
    "header": ("same", "machine", "limits", "budget_s"),
    "point": ("key", "pass", "operator", "variant", "axes", "median_ns", "clock"),
    "step": ("key", "pass", "spans", "median_ns", "clock"),
    "unmeasurable": ("key", "pass", "reason"),
    "cut": ("points", "by"),
    "clocks": ("pass", "clocks"),
    "end": (),
}


def _has_header(path: Path) -> bool:
    """Is the first line whole? Raises MeasureError where it is not, and no part of a header."""
    with path.open("rb") as file:
        first = file.readline()
    if first.endswith(b"\n"):
        return True
    if first[: len(_BEGINNING)] != _BEGINNING[: len(first)]:
        raise _no_header(path)
    return False


_BEGINNING = b'{"kind":"header"'
"""Of every file that a measurement writes."""


def _cut_tail(path: Path) -> None:
    """Cut off a last line without its end."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        step, kept = 1 << 16, 0
        while size and not kept:
            start = max(0, size - step)
            file.seek(start)
            end = file.read(size - start).rfind(b"\n")
            kept, size = (start + end + 1, size) if end >= 0 else (0, start)
        file.truncate(kept)


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else text[:77] + "..."
