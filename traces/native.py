"""pagesim's own trace format: JSON lines that hold all a Request holds.

The fields are those of the recorded vLLM runs (`trace.jsonl`), with exact nanoseconds::

    {"request_id": "s0-t1", "arrival_ns": 15, "prompt": [[0, 0, 512], [3, 0, 20]],
     "output_tokens": 7, "out_stream": 4, "priority": 0, "session": "s0"}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from sim.request import Request, Run
from traces.arrange import Row
from traces.file import Head
from traces.filetrace import Compose, FileTrace
from traces.jsonl import Record, first_keys, read_records, shorten
from traces.ranges import ARRIVALS, INT64, PRIORITIES, TOKENS
from traces.streams import Streams
from traces.unfinished import writing

_REQUIRED = ("request_id", "prompt", "output_tokens", "out_stream")
_OPTIONAL = (
    *("arrival_ns", "arrival_us", "arrival_s", "prompt_tokens"),
    *("priority", "max_tokens", "tenant", "session", "n", "beam"),
)
_POSITIVE = range(1, TOKENS.stop)
_MICROSECONDS = range(ARRIVALS.stop // 1000)
_ANSWERS = range(1, 16_385)
"""How many of them, or of beams, vLLM lets one request ask for."""


class NativeTrace(FileTrace):
    """JSON lines (also .gz) in pagesim's own format; see the module for an example.

    `prompt` is a list of [stream, start, length]; the k-th token of the answer is
    (out_stream, k). Arrival is `arrival_ns` or `arrival_us`, one of them, and is kept as
    recorded: nothing is shifted. Redundant fields of the recorded runs are checked
    (`prompt_tokens`) or ignored (`arrival_s`). Iterating raises TraceError for missing or
    unknown fields, values out of range, and a request_id or out_stream that was used before.
    """

    kind: ClassVar[str] = "native"
    looks: ClassVar[str] = "JSON lines: request_id, prompt, output_tokens, out_stream, ..."
    shifted: ClassVar[bool] = False

    @staticmethod
    def recognises(head: Head) -> bool:
        return first_keys(head).issuperset(_REQUIRED)

    def rows(self) -> Iterator[Row]:
        used: dict[str | int, int] = {}
        for record in read_records(self._file):
            record.check_fields(required=_REQUIRED, optional=_OPTIONAL)
            row = _row(record)
            names = {"request_id": record.text("request_id"), "out_stream": row.content[1]}
            for key, name in names.items():
                if name in used:
                    found = f"{key} = {name!r}, used on line {used[name]}"
                    raise record.error(found=found, allowed="a new one for each request")
                used[name] = record.line
            yield row

    def composing(self, streams: Streams) -> Compose:
        return lambda row: row.content


def write_trace(path: str | Path, requests: Iterable[Request]) -> None:
    """Write requests as a native trace, gzipped where the name ends in .gz.

    The file appears under its name only when it is complete. Equal requests give equal
    bytes. Raises OSError where the folder cannot be written.
    """
    with writing(Path(path)) as file:
        file.writelines(map(_line, requests))


def _line(request: Request) -> bytes:
    fields = {
        "request_id": request.id,
        "arrival_ns": request.arrival_ns,
        "prompt": request.prompt,
        "output_tokens": request.output_tokens,
        "out_stream": request.output_stream,
        "priority": request.priority,
        "max_tokens": request.max_tokens,
        "tenant": request.tenant,
        "session": request.session,
        "n": request.n if request.n > 1 else None,
        "beam": request.beam or None,
    }
    stated = {key: value for key, value in fields.items() if value is not None}
    return json.dumps(stated, separators=(",", ":")).encode() + b"\n"


def _row(record: Record) -> Row:
    arrival_ns = _arrival_ns(record)
    output_tokens = record.whole("output_tokens", _POSITIVE)
    prompt = _prompt(record)
    return Row(
        record.line,
        arrival_ns,
        f"arrival at {arrival_ns} ns",
        sum(length for _, _, length in prompt),
        output_tokens,
        (prompt, record.whole("out_stream", INT64)),
        record.optional_text("session"),
        record.optional_text("tenant"),
        record.optional_whole("priority", PRIORITIES) or 0,
        # A limit below the answer's length would contradict the answer.
        record.optional_whole("max_tokens", range(output_tokens, TOKENS.stop)),
        record.text("request_id"),
        n=record.optional_whole("n", _ANSWERS) or 1,
        beam=_beam(record),
    )


def _beam(record: Record) -> int:
    """The width of the search; as many answers are returned, so n may not say another number."""
    beam = record.optional_whole("beam", _ANSWERS) or 0
    if beam and "n" in record:
        raise record.error(found="both n and beam", allowed="one of them")
    return beam


def _arrival_ns(record: Record) -> int:
    if ("arrival_ns" in record) == ("arrival_us" in record):
        count = "both" if "arrival_ns" in record else "neither"
        found = f"{count} of arrival_ns and arrival_us"
        raise record.error(found=found, allowed="one of them")
    if "arrival_ns" in record:
        return record.whole("arrival_ns", ARRIVALS)
    return record.whole("arrival_us", _MICROSECONDS) * 1000


def _prompt(record: Record) -> tuple[Run, ...]:
    prompt = tuple(_run(record, item) for item in record.items("prompt"))
    tokens = sum(length for _, _, length in prompt)
    if tokens not in _POSITIVE:
        found = f"a prompt of {tokens} tokens"
        raise record.error(found=found, allowed=f"1 to {TOKENS.stop - 1} tokens")
    stated = record.optional_whole("prompt_tokens", TOKENS)
    if stated not in (None, tokens):
        found = f"prompt_tokens = {stated} beside a prompt of {tokens}"
        raise record.error(found=found, allowed="the sum of the runs' lengths")
    return prompt


def _run(record: Record, item: object) -> Run:
    if isinstance(item, list) and len(item) == 3 and all(type(n) is int for n in item):
        stream, start, length = item
        if stream in INT64 and start in TOKENS and length in _POSITIVE:
            return stream, start, length
    raise record.error(
        found=f"the run {shorten(item)} in prompt",
        allowed="[stream, start, length], whole numbers from 0, 0 and 1",
    )
