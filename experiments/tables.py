"""The tables of a run as frames, and on disk: types and units, stated column by column."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from sim.plan import Limit
from sim.record.records import COLUMNS, Records
from sim.record.rows import Event

RESULT_SCHEMA = 4
"""To be raised whenever tables or summary change their meaning; part of every run id."""

_TEXT = {"requests": ("id", "tenant", "session")}
_REFUSED = {
    "id": pa.string(),
    "arrival_ns": pa.int64(),
    "prompt_tokens": pa.int64(),
    "output_tokens": pa.int64(),
    "reason": pa.string(),
}

TABLES = (*COLUMNS, "refused")

_UNITS_BY_ENDING = {
    "ns": "ns",
    "tokens": "tokens",
    "blocks": "blocks",
    "slots": "token slots",
}
_UNITS = {
    "request": "index in order of arrival",
    "branch": "index within the request",
    "branches": "answers",
    "replica": "index",
    "step": "index on its replica",
    "first_step": "index on its replica",
    "steps": "steps",
    "priority": "lower is more urgent",
    "preemptions": "times",
    "beam": "beams",
    "limit": "code",
    "event": "code",
    "running": "sequences",
    "waiting": "sequences",
    "decodes": "sequences",
    "decode_context": "tokens",
    "wasted": "sequences",
    "chunks": "chunks",
    "admitted": "sequences",
    "preempted": "sequences",
    "finished": "sequences",
    "computed_before": "tokens",
    "id": "the trace's",
    "tenant": "the trace's",
    "session": "the trace's",
    "reason": "text",
}
_CODES = {"limit": Limit, "event": Event}


def make_frames(records: Records) -> dict[str, pd.DataFrame]:
    """Every table by name: those of `sim.record.records.COLUMNS`, and `refused`.

    `requests` begins with the trace's id, tenant and session.
    """
    frames = {name: pd.DataFrame(records.arrays(name)) for name in COLUMNS}
    for at, (name, values) in enumerate(records.texts().items()):
        frames["requests"].insert(at, name, pd.Series(values, dtype="str"))
    rows = [
        (request.id, request.arrival_ns, request.prompt_tokens, request.output_tokens, reason)
        for request, reason in records.refused
    ]
    types = {name: "str" if kind == pa.string() else "int64" for name, kind in _REFUSED.items()}
    frames["refused"] = pd.DataFrame(rows, columns=list(_REFUSED)).astype(types)
    return frames


def make_schema(table: str, *, metadata: dict[str, str] | None = None) -> pa.Schema:
    """The Arrow schema of a table; every field's metadata has its unit, codes their meaning."""
    columns = _REFUSED
    if table in COLUMNS:
        texts = dict.fromkeys(_TEXT.get(table, ()), pa.string())
        columns = texts | dict.fromkeys(COLUMNS[table], pa.int64())
    fields = [pa.field(name, kind, metadata=_describe(name)) for name, kind in columns.items()]
    return pa.schema(fields, metadata=metadata)


def _describe(column: str) -> dict[str, str]:
    ending = column.rpartition("_")[2]
    description = {"unit": _UNITS.get(column) or _UNITS_BY_ENDING[ending]}
    if column in _CODES:
        codes = (f"{code.value} {code.name.lower()}" for code in _CODES[column])
        description["codes"] = ", ".join(codes)
    return description
