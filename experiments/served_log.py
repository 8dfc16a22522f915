"""What real kernels took to serve a trace: one JSON-lines file, written as it happens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from experiments.errors import ConfigError
from sim.moves import Takes
from sim.observer import Observer
from sim.plan import Plan
from sim.record.records import Records

FORMAT = 1
_REQUEST = ("arrival_ns", "admit_ns", "first_token_ns", "finish_ns", "ttft_ns")
_COUNTS = ("prompt_tokens", "output_tokens", "hit_tokens", "preemptions")
_FIELDS = {
    "header": ("format", "config", "machine"),
    "random_step": ("spans", "duration_ns"),
    "step": ("spans", "start_ns", "duration_ns"),
    "request": ("id", *_REQUEST, *_COUNTS),
    "refused": ("id", "reason"),
    "end": (),
}
_KINDS = {"config": dict, "machine": dict, "spans": list, "id": str, "reason": str}
"""Of fields; all others are whole numbers."""

Spans = list[tuple[int, int]]


class ServedError(ConfigError):
    """A file that is no record of serving, or one of something else; says where, and what."""


class Writer:
    """Appends lines to a new file, each on disk once it is written."""

    def __init__(
        self, path: Path, *, config: Mapping[str, Any], machine: Mapping[str, Any]
    ) -> None:
        """Raises ServedError where the file cannot be written."""
        try:
            self._file: TextIO = path.open("w", encoding="utf-8")
        except OSError as error:
            raise ServedError(f"{path}: {error.strerror}") from None
        self.write("header", format=FORMAT, config=config, machine=machine)

    def write(self, kind: str, **fields: Any) -> None:
        line = json.dumps({"kind": kind, **fields}, separators=(",", ":"), default=int)
        self._file.write(line + "\n")
        self._file.flush()

    def write_requests(self, records: Records) -> None:
        """All that were answered, and all that were refused."""
        columns, names = records.arrays("requests"), records.texts()["id"]
        for at, name in enumerate(names):
            row = {column: int(columns[column][at]) for column in (*_REQUEST, *_COUNTS)}
            self.write("request", id=name, **row)
        for request, reason in records.refused:
            self.write("refused", id=request.id, reason=reason)

    def close(self) -> None:
        self._file.close()


class StepLines(Observer):
    """An observer that writes a line for each step, once it knows where to."""

    def __init__(self) -> None:
        self._writer: Writer | None = None
        self._spans: Spans = []
        self.steps = 0

    def use(self, writer: Writer) -> None:
        self._writer = writer

    def began(self, plan: Plan, now_ns: int) -> None:
        self._spans = [(row.computed_before, row.n) for row in plan.rows()]

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        assert self._writer is not None
        (end_ns,) = ends_ns
        self.steps += 1
        moved = len(plan.copies) + sum(len(swap.blocks) for swap in plan.swaps)
        self._writer.write(
            "step",
            start_ns=start_ns,
            duration_ns=end_ns - start_ns,
            spans=self._spans,
            **({"moved_blocks": moved} if moved else {}),
        )


@dataclass(slots=True)
class Served:
    """A file, by what its lines are about."""

    path: Path
    config: dict[str, Any]
    machine: dict[str, Any]
    random_steps: list[tuple[Spans, int]] = field(default_factory=list)
    """(rows, ns) of steps of no run, before it; likewise of"""
    steps: list[tuple[Spans, int]] = field(default_factory=list)
    moving: int = 0
    """Further steps: they copied or swapped blocks first, and what of their time is not known."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False

    @property
    def rate(self) -> float:
        """Requests answered per second, from the first arrival to the last token. Raises
        ServedError of a run that did not end."""
        if not self.ended or not self.requests:
            raise ServedError(f"{self.path}: found a run that did not end; allowed: a whole one")
        span_ns: int = max(each["finish_ns"] for each in self.requests) - min(
            each["arrival_ns"] for each in self.requests
        )
        return len(self.requests) / span_ns * 1e9


def read_served(path: Path) -> Served:
    """Raises ServedError, with the line; a last line without its end is left out."""
    lines = _lines(path)
    try:
        _, header = next(lines)
    except StopIteration:
        raise ServedError(f"{path}: found an empty file; allowed: a served trace") from None
    served = Served(path, header["config"], header["machine"])
    for _, line in lines:
        match line["kind"]:
            case "random_step":
                served.random_steps.append((line["spans"], line["duration_ns"]))
            case "step" if line.get("moved_blocks"):
                served.moving += 1
            case "step":
                served.steps.append((line["spans"], line["duration_ns"]))
            case "request":
                served.requests.append(line)
            case "refused":
                served.refused.append(line)
            case "end":
                served.ended = True
    return served


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, text in enumerate(file, 1):
                if not text.endswith("\n"):
                    return
                yield number, _parse(path, number, text)
    except OSError as error:
        raise ServedError(f"{path}: {error.strerror}") from None


def _parse(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    kind = line.get("kind") if isinstance(line, dict) else None
    if number == 1 and (kind != "header" or line.get("format") != FORMAT):
        raise ServedError(
            f"{path}:1: found no header of format {FORMAT}; allowed: what `python -m"
            " experiments.serve_kernels` writes"
        )
    if kind not in _FIELDS:
        raise _damaged(path, number, "no JSON object" if kind is None else f"kind {kind!r}")
    if missing := [name for name in _FIELDS[kind] if name not in line]:
        raise _damaged(path, number, f"kind {kind!r} without {', '.join(missing)}")
    for name in _FIELDS[kind]:
        if not isinstance(line[name], _KINDS.get(name, int)):
            raise _damaged(path, number, f"kind {kind!r} with {name} {line[name]!r}")
    return dict(line)


def _damaged(path: Path, number: int, found: str) -> ServedError:
    return ServedError(f"{path}:{number}: found {found}; allowed: {', '.join(_FIELDS)}")
