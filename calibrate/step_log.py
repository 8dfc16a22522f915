"""Step logs of any engine: how long each step took, and what it computed."""

from __future__ import annotations

import csv
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibrate.naming import did_you_mean
from calibrate.roofline import attention_area
from traces.file import TraceFile

FEATURES = ("tokens", "decodes", "decode_context", "chunks", "area")
"""What is known of a step: scheduled tokens, rows of one token, tokens these attend to, rows
of several tokens, and the (query, key) pairs of their attention (`attention_area`)."""
_ROWS = "reqs"
_UNITS = {"ns": 0, "us": 3, "ms": 6, "s": 9}
_TIMES = ("duration", "start", "end")
COLUMNS = (*FEATURES, _ROWS, *(f"{time}_{unit}" for time in _TIMES for unit in _UNITS))
"""The names that a log's columns may have, or be given."""
_KNOWN = {"start_s": "sched_begin_s", "end_s": "update_end_s"}
"""What recorded runs of vLLM call them (docs/guides/compare-with-real-vllm.md)."""
_LONGEST_NS = 10**13
_LARGEST = 10**15
_MOST_TOKENS = 10**9


class FitError(ValueError):
    """Steps from which no model can be fitted; says what is lacking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLog:
    """Steps in the order in which they ended; every array has one entry for each."""

    name: str
    columns: dict[str, str]
    """Our names of the columns that were read, and the log's."""
    line: NDArray[np.int64]
    duration_ns: NDArray[np.float64]
    features: NDArray[np.float64]
    """(steps, FEATURES); 0 in columns that the log does not have."""
    known: tuple[str, ...]
    """Those of FEATURES that it has."""
    host_ns: int
    """Median time from a step's end to the next one's begin while there was work; 0 where the
    log does not tell."""
    notes: Counter[str]
    """What was left out or counted otherwise, and how often."""


class _Source(NamedTuple):
    """Where the columns are, by our names, and what is wrong in a row of them."""

    file: TraceFile
    at: dict[str, int]
    called: dict[str, str]

    def number(self, column: str, row: list[str], line: int, *, most: int = _LARGEST) -> Decimal:
        text = row[self.at[column]]
        try:
            value = Decimal(text)
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite() or not 0 <= value <= most:
            raise self.file.error(
                line,
                found=f"{self.called[column]} = {text!r}",
                allowed=f"a number from 0 to {most:,}",
            )
        return value

    def time_ns(self, quantity: str, row: list[str], line: int) -> int | None:
        """None where the log has no such column."""
        for unit, power in _UNITS.items():
            if f"{quantity}_{unit}" in self.at:
                most = 2**62 // 10**power
                seconds = self.number(f"{quantity}_{unit}", row, line, most=most)
                return round(seconds.scaleb(power))
        return None


def read_step_log(
    file: TraceFile,
    *,
    columns: Mapping[str, str] | None = None,
    skip: int = 0,
    watch: Callable[[Iterable[list[str]]], Iterable[list[str]]] = iter,
) -> StepLog:
    """Read a CSV file with a row for each step.

    `columns` says what the log calls a column of ours (COLUMNS); the first `skip` steps are
    left out; `watch` sees the rows go by. A step lasts its `duration`, or from its `start`
    (the scheduler begins) to its `end` (its tokens are handed out). Where steps overlap, as
    with asynchronous scheduling or pipeline stages, a step counts from the end of the last one:
    that is what it adds to the clock. Raises TraceError with file and line for a log that
    lacks columns, holds no numbers, or is out of order.
    """
    notes: Counter[str] = Counter()
    texts = _Texts(file)
    rows = _rows(texts, file)
    header = next(rows, None)
    if header is None:
        raise file.error(None, found="an empty file", allowed="a line of column names, then steps")
    source = _find_columns(file, [name.strip() for name in header], dict(columns or {}))
    clock, host = _Clock(source, notes), array("d")
    lines, durations, features = array("q"), array("d"), array("d")
    for index, row in enumerate(watch(rows)):
        line = texts.line
        if len(row) != len(header):
            found = f"{len(row)} values"
            raise file.error(line, found=found, allowed=f"{len(header)}, as the header has")
        duration_ns, gap_ns = clock.read(row, line)
        work = _read_work(source, row, line)
        if index < skip:
            notes["first steps skipped"] += 1
        elif not work[0]:
            notes["steps that compute nothing dropped"] += 1
        else:
            if work[1] and gap_ns is not None:  # somebody who decodes was there before
                host.append(gap_ns)
            lines.append(line)
            durations.append(duration_ns)
            features.extend(work)
    known = (
        FEATURES if _ROWS in source.at else tuple(name for name in FEATURES if name in source.at)
    )
    return StepLog(
        name=file.path.name,
        columns=source.called,
        line=np.array(lines, dtype=np.int64),
        duration_ns=np.array(durations),
        features=np.array(features).reshape(-1, len(FEATURES)),
        known=known,
        host_ns=round(float(np.median(host))) if host else 0,
        notes=notes,
    )


class _Texts:
    """The lines of a file; `line` is the number of the last one that was read."""

    def __init__(self, file: TraceFile) -> None:
        self.line = 0
        self._numbered = file.lines()

    def __iter__(self) -> Iterator[str]:
        for line, text in self._numbered:
            self.line = line
            yield text


def _rows(texts: _Texts, file: TraceFile) -> Iterator[list[str]]:
    """Blank lines are no rows."""
    try:
        yield from filter(None, csv.reader(texts))
    except csv.Error as error:
        raise file.error(texts.line, found=f"no CSV ({error})", allowed="a row") from None


class _Clock:
    """How long each step lasted, and how long before it nothing ran."""

    def __init__(self, source: _Source, notes: Counter[str]) -> None:
        self._source = source
        self._notes = notes
        self._last_end_ns: int | None = None

    def read(self, row: list[str], line: int) -> tuple[int, int | None]:
        """(duration, gap since the last step) in ns; the gap is None where it is unknown."""
        duration_ns, gap_ns = self._source.time_ns("duration", row, line), None
        if duration_ns is None:
            duration_ns, gap_ns = self._between(row, line)
        if not 0 < duration_ns <= _LONGEST_NS:
            raise self._source.file.error(
                line,
                found=f"a step of {duration_ns:,} ns",
                allowed=f"1 to {_LONGEST_NS:,} ns, steps in the order in which they ended",
            )
        return duration_ns, gap_ns

    def _between(self, row: list[str], line: int) -> tuple[int, int | None]:
        start_ns = self._source.time_ns("start", row, line)
        end_ns = self._source.time_ns("end", row, line)
        assert start_ns is not None
        assert end_ns is not None
        last_end_ns, self._last_end_ns = self._last_end_ns, end_ns
        if last_end_ns is None:
            return end_ns - start_ns, None
        if start_ns < last_end_ns:
            self._notes["steps that began before the last one ended, counted from its end"] += 1
            return end_ns - last_end_ns, 0
        return end_ns - start_ns, start_ns - last_end_ns


def _read_work(source: _Source, row: list[str], line: int) -> tuple[float, ...]:
    """The FEATURES of a step."""
    if _ROWS in source.at:
        return _add_up(source, row[source.at[_ROWS]], line)
    work = [
        float(source.number(name, row, line)) if name in source.at else 0.0 for name in FEATURES
    ]
    tokens, decodes, context, chunks, _ = work
    too_little = decodes + chunks > tokens or ("decode_context" in source.at and context < decodes)
    if too_little or not all(each.is_integer() for each in work[:4]):
        raise source.file.error(
            line,
            found=f"{tokens:g} tokens, {decodes:g} decodes with {context:g} of context, {chunks:g}"
            " chunks",
            allowed="whole numbers; a token or more for each row, and of context for each decode",
        )
    return tuple(work)


def _add_up(source: _Source, text: str, line: int) -> tuple[float, ...]:
    """From `id:computed before:tokens`, with or without `:kind` behind, joined by `|`."""
    tokens = decodes = context = chunks = area = 0
    for entry in text.split("|") if text else ():
        fields = entry.split(":")
        if not fields[-1].isdecimal():
            fields.pop()
        try:
            _, *_, before, n = fields
            computed_before, scheduled = int(before), int(n)
            if not (0 <= computed_before <= _MOST_TOKENS and 0 <= scheduled <= _MOST_TOKENS):
                raise ValueError
        except ValueError:
            raise source.file.error(
                line,
                found=f"{source.called[_ROWS]} with {entry!r}",
                allowed="id:computed before:tokens for each request, joined by |",
            ) from None
        tokens += scheduled
        if scheduled == 1:
            decodes += 1
            context += computed_before + 1
        elif scheduled:
            chunks += 1
            area += int(attention_area(computed_before, scheduled))
    return tokens, decodes, context, chunks, area


def _find_columns(file: TraceFile, header: list[str], given: dict[str, str]) -> _Source:
    """Raises TraceError for names that are not there, and for a log that lacks a column."""
    for name, theirs in given.items():
        if name not in COLUMNS:
            known = {each: each for each in COLUMNS}
            raise file.error(None, found=f"--columns {name}=", allowed=did_you_mean(name, known))
        if theirs not in header:
            raise file.error(1, found=f"no column {theirs!r}", allowed=", ".join(header))
    called = dict(given)
    _find_times(called, header)
    if not called.keys() & {_ROWS, *FEATURES}:
        found = [name for name in (_ROWS, *FEATURES) if name in header]
        called |= {name: name for name in (found[:1] if _ROWS in found else found)}
    timed = {name.rpartition("_")[0] for name in called} & set(_TIMES)
    for there, allowed in (
        (
            timed in ({"duration"}, {"start", "end"}),
            "either duration_ns (or _us, _ms, _s), or start_ns and end_ns, among them; --columns"
            " duration_ms=NAME says what the log calls it",
        ),
        (
            bool({"tokens", _ROWS} & called.keys()),
            f"{_ROWS}, or tokens and as many of {', '.join(FEATURES[1:])} as there are;"
            " --columns tokens=NAME says what the log calls it",
        ),
    ):
        if not there:
            raise file.error(1, found=f"the columns {', '.join(header)}", allowed=allowed)
    return _Source(file, {name: header.index(theirs) for name, theirs in called.items()}, called)


def _find_times(called: dict[str, str], header: list[str]) -> None:
    """Add the columns of times that nobody has named: durations, or else starts and ends."""
    given = any(name.startswith(("start", "end")) for name in called)
    for quantities in (("start", "end"),) if given else (("duration",), ("start", "end")):
        for quantity in quantities:
            names = [f"{quantity}_{unit}" for unit in _UNITS]
            if not called.keys() & set(names):
                found = [(name, name) for name in names if name in header]
                found += [(n, _KNOWN[n]) for n in names if _KNOWN.get(n) in header]
                called |= dict(found[:1])
        if any(name.startswith(quantities) for name in called):
            return
