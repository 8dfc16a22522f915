"""What a case recorded of single steps: when requests were first scheduled, and when they got
their first and last tokens."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from experiments.case import CaseError

Kind = Literal["schedule", "step_end_first", "step_end_last"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TOGETHER_NS = 1_000_000
"""Events closer than this are of one instant: an engine writes them down within 0.5 ms of the end
of a step, and decides the next one then."""


class Event(NamedTuple):
    """Something that was seen of these requests."""

    at_ns: int
    kind: Kind
    ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Instant:
    """A recorded end of a step, or the start of the first one after idling."""

    at_ns: int
    """Of its last event: who was taken in before it was seen by the decision at it."""
    events: list[Event]
    running: frozenset[str]
    """Afterwards: scheduled, and not at their last token."""
    who: dict[Kind, frozenset[str]] = field(default_factory=dict)


def read_events(path: Path, known: Iterable[str], *, shift_ns: int) -> tuple[Event, ...]:
    """Events in the order of time, `shift_ns` earlier than they were written down.

    The file has columns t_s, event, request_ids; rows of other events are left out. Raises
    CaseError with the line for what cannot be used, and where a request lacks an event.
    """
    known = set(known)
    events: list[Event] = []
    seen: dict[Kind, set[str]] = {kind: set() for kind in KINDS}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                kind = next((kind for kind in KINDS if kind == row.get("event")), None)
                if kind is None:
                    continue
                event = _read_event(row, kind, shift_ns, f"{path}:{number}")
                for name in event.ids:
                    if name not in known or name in seen[kind]:
                        what = "a second time" if name in known else "which is not there"
                        raise CaseError(f"{path}:{number}: found request {name} {what}")
                seen[kind] |= event.ids
                events.append(event)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CaseError(f"{path}: cannot be read as CSV ({error})") from None
    for kind in KINDS:
        if lacking := sorted(known - seen[kind]):
            raise CaseError(f"{path}: found no {kind} of request {lacking[0]}; allowed: all three")
    return tuple(sorted(events, key=lambda event: event.at_ns))


def _read_event(row: dict[str, str], kind: Kind, shift_ns: int, place: str) -> Event:
    try:
        at_ns = round(float(row["t_s"]) * 1e9) - shift_ns
        return Event(at_ns, kind, frozenset(row["request_ids"].split()))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CaseError(
            f"{place}: cannot be used ({error!r}); allowed: t_s, event and request_ids"
        ) from None


def gather_instants(events: Iterable[Event]) -> list[Instant]:
    """Events that belong together, with who runs after them."""
    groups: list[list[Event]] = []
    for event in events:
        if groups and event.at_ns - groups[-1][-1].at_ns < TOGETHER_NS:
            groups[-1].append(event)
        else:
            groups.append([event])
    instants, running = [], frozenset[str]()
    for group in groups:
        who = {kind: frozenset[str]() for kind in KINDS}
        for event in group:
            who[event.kind] |= event.ids
        running = (running | who["schedule"]) - who["step_end_last"]
        instants.append(Instant(group[-1].at_ns, group, running, who))
    return instants
