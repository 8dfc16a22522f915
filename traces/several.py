"""Requests of several traces in one: they must not meet by id, session or content."""

from __future__ import annotations

from sim.request import Request
from traces.ranges import INT64
from traces.schema import TraceError


def adopt(request: Request, *, name: str, place: int, places: int) -> Request:
    """The request as part of a whole: that of the trace `name`, the `place`-th of `places`.

    Ids and sessions become `name/...`. Stream s becomes s * places + place, so that content
    of two traces never meets, and nothing needs to be remembered. Raises TraceError where
    that exceeds 2**63.
    """

    def renumber(stream: int) -> int:
        number = stream * places + place
        if number not in INT64:
            found = f"the stream {stream} in request {request.id!r}, one of {places} traces"
            raise TraceError(name, None, found, f"streams below {INT64.stop // places}")
        return number

    return Request(
        f"{name}/{request.id}",
        request.arrival_ns,
        tuple([(renumber(stream), start, length) for stream, start, length in request.prompt]),
        request.output_tokens,
        renumber(request.output_stream),
        request.max_tokens,
        request.priority,
        request.tenant,
        None if request.session is None else f"{name}/{request.session}",
        request.n,
        request.beam,
    )
