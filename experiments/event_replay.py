"""A case served again with its recorded instants as ends of steps: does the same happen at each?

Given are the instants, never who was seen at them, and when the engine took requests in. Steps
between two instants share the time evenly; how many they are follows from what requests got
(`step_count`), and from a clock. Who is scheduled, and whose first and last tokens come, in which
step, and who runs, is decided by the simulated engine alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.case import Case, CaseError
from experiments.case_events import Event, Instant, Kind, gather_instants
from experiments.step_count import Count, Tie, count_steps
from experiments.step_gaps import (
    Step,
    compare_gaps,
    guess_from_clock,
    guess_from_steps,
    list_doubts,
)
from sim.latency import LatencyModel, WholeSteps
from sim.request import Request

if TYPE_CHECKING:
    from experiments.deployment import Deployment
    from sim.moves import Takes
    from sim.parting import Fork
    from sim.plan import Departure, Plan
    from sim.request import Sequence

_PASSES = 10


class Seen(NamedTuple):
    """An event of the simulated engine."""

    ended: int
    """Steps that had ended by then."""
    at_ns: int
    kind: Kind
    id: str


class Paced(WholeSteps):
    """Observes a replica and is its clock: step k ends at `ends_ns[k]`, later ones when `clock`
    says."""

    source = "recorded instants"

    def __init__(self, clock: LatencyModel, ends_ns: NDArray[np.int64]) -> None:
        self.seen: list[Seen] = []
        self.steps: list[Step] = []
        self._clock = clock
        self._ends_ns = ends_ns
        self._now_ns = self._last_ns = self._ended = 0

    def durations(self, plan: Plan, k: int) -> list[int]:
        priced_ns = self._clock.durations(plan, 1)[0]
        self.steps.append(Step(priced_ns, len(plan.chunks), len(plan.decodes)))
        start_ns, step = max(self._now_ns, self._last_ns), len(self.steps)
        known = step < len(self._ends_ns)
        self._last_ns = int(self._ends_ns[step]) if known else start_ns + priced_ns
        self._last_ns = max(self._last_ns, start_ns + 1)
        return [self._last_ns - start_ns]

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None:
        pass

    def refused(self, request: Request, reason: str, now_ns: int) -> None:
        pass

    def began(self, plan: Plan, now_ns: int) -> None:
        self._now_ns = now_ns
        for admission in plan.admitted:
            if not admission.sequence.preemptions:
                self._note(now_ns, "schedule", admission.sequence)

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        self._ended += not plan.is_empty
        for sequence in plan.completing:
            if not sequence.generated:
                self._note(ends_ns[-1], "step_end_first", sequence)

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        pass

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        for departure in departures:
            self._note(now_ns, "step_end_last", departure.sequence)

    def _note(self, at_ns: int, kind: Kind, sequence: Sequence) -> None:
        self.seen.append(Seen(self._ended, at_ns, kind, sequence.id))


def replay_events(case: Case, deployment: Deployment, clock: LatencyModel) -> dict[str, Any]:
    """How many of the recorded events happen in the same step to the same requests, with the same
    ones running after them; those that do not; and what steps took beside what `clock` says.

    Serving tells which steps have chunks, and that how many steps fit between two instants: it is
    repeated until the numbers stay (`settled`), or ten times. Raises CaseError where nothing of the
    kind was recorded.
    """
    if not case.events or case.real["ttft_from_queued"].isna().any():
        raise CaseError(
            f"{case.folder}: --events: found no truth_events.csv, or not when requests were queued"
        )
    instants = gather_instants(case.events)
    last = _settle(case, deployment, clock, instants)
    different = [each.tell() for each in last.compared if each.differs]
    return {
        "instants": len(instants),
        "events": len(last.compared),
        "same": len(last.compared) - len(different),
        "steps": int(last.counted.ended[-1]),
        "gaps_by_clock": last.counted.guessed,
        "gaps_contradicted": last.counted.contradicted,
        "requests_contradicted": last.counted.broken,
        "settled": last.settled,
        "different": different,
        "step_times": compare_gaps(instants, last.counted, last.steps, last.met),
    }


class _Pass(NamedTuple):
    """A case served once, with so many steps between its instants."""

    counted: Count
    steps: list[Step]
    compared: list[Compared]
    met: list[bool]
    """Of each instant, whether all its events happen there."""
    settled: bool
    """Another pass would count the same steps."""


def _settle(
    case: Case, deployment: Deployment, clock: LatencyModel, instants: list[Instant]
) -> _Pass:
    """The last pass of those that it takes."""
    requests, ties = _list_requests(case), _list_ties(instants, case)
    guesses = guess_from_clock(instants, case, clock)
    for _ in range(_PASSES):
        count = count_steps(len(instants), ties, guesses, list_doubts(instants, guesses))
        paced = Paced(clock, _spread(instants, count))
        _serve(deployment, paced, requests)
        compared = list(_compare(instants, count, paced.seen))
        met = _list_met(instants, compared)
        before, guesses = guesses, guess_from_steps(instants, count, paced.steps, guesses, met)
        settled = [round(guess) for guess in guesses] == [round(guess) for guess in before]
        if settled:
            break
    return _Pass(count, paced.steps, compared, met, settled)


def _list_requests(case: Case) -> list[Request]:
    """Each arrives when the engine took it in."""
    queued_ns = (
        case.real["arrival_ns"] + case.real["ttft"] - case.real["ttft_from_queued"]
    ).round()
    requests = [
        replace(request, arrival_ns=max(0, int(queued_ns[request.id]))) for request in case.requests
    ]
    return sorted(requests, key=lambda request: request.arrival_ns)


def _list_ties(instants: list[Instant], case: Case) -> list[Tie]:
    at: dict[Kind, dict[str, int]] = {"step_end_first": {}, "step_end_last": {}}
    for number, instant in enumerate(instants):
        for kind, found in at.items():
            found.update(dict.fromkeys(instant.who[kind], number))
    first, last = at.values()
    answers = case.real["output_tokens"]
    return [Tie(first[name], last[name], int(answers[name]) - 1) for name in answers.index]


def _spread(instants: list[Instant], count: Count) -> NDArray[np.int64]:
    """When each step ends, by its number; index 0 is none's. Evenly between two instants."""
    ended, first = np.unique(count.ended, return_index=True)
    known_ns = [instants[at].at_ns for at in first]
    ends_ns = np.interp(np.arange(ended[-1] + 1), ended, known_ns)
    spread: NDArray[np.int64] = np.rint(ends_ns).astype(np.int64)
    return spread


def _serve(deployment: Deployment, paced: Paced, requests: list[Request]) -> None:
    from experiments.build import build_simulation

    build_simulation(deployment, latency=paced, observers=[paced]).serve(requests)


@dataclass(frozen=True, slots=True)
class Compared:
    """One recorded event beside the simulated ones of its kind at its instant."""

    event: Event
    simulated: frozenset[str]
    late_steps: dict[str, int | None]
    """By request of the event: how many steps later it happens; None: never."""
    running: frozenset[str]
    """In one of the two engines alone."""

    @property
    def differs(self) -> bool:
        return self.simulated != self.event.ids or bool(self.running)

    def tell(self) -> dict[str, Any]:
        return {
            "at_s": self.event.at_ns / 1e9,
            "event": self.event.kind,
            "recorded": sorted(self.event.ids),
            "simulated": sorted(self.simulated),
            "late_steps": self.late_steps,
            "running_differs": sorted(self.running),
        }


def _list_met(instants: list[Instant], compared: list[Compared]) -> list[bool]:
    differing = {id(each.event) for each in compared if each.differs}
    return [not any(id(event) in differing for event in instant.events) for instant in instants]


def _compare(instants: list[Instant], count: Count, seen: list[Seen]) -> Iterator[Compared]:
    places = [
        (int(ended), instant.at_ns) for ended, instant in zip(count.ended, instants, strict=True)
    ]
    simulated: dict[tuple[int, Kind], set[str]] = defaultdict(set)
    steps: dict[tuple[str, Kind], int] = {}
    for one in seen:
        steps[one.id, one.kind] = one.ended
        at = bisect_left(places, (one.ended, one.at_ns))
        if at < len(places) and places[at][0] == one.ended:
            simulated[at, one.kind].add(one.id)
    changes = sorted(one for one in seen if one.kind != "step_end_first")
    running: set[str] = set()
    done = 0
    for at, instant in enumerate(instants):
        while done < len(changes) and changes[done][:2] <= places[at]:
            change = changes[done]
            (running.add if change.kind == "schedule" else running.discard)(change.id)
            done += 1
        for event in instant.events:
            late = {
                name: None
                if (name, event.kind) not in steps
                else steps[name, event.kind] - places[at][0]
                for name in sorted(event.ids)
            }
            others = simulated[at, event.kind] - (instant.who[event.kind] - event.ids)
            yield Compared(event, frozenset(others), late, instant.running ^ running)
