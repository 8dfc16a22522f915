"""The parts of TTFT once more, step by step, from every recorded table but the parts.

It knows the queue's order and docs/reference/metrics.md, and nothing of sim/record/ttft.py.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from sim.plan import Limit
from sim.record.rows import Event
from sim.record.ttft import PARTS
from sim.request import BRANCHES
from tests.served import Frames, Server

_READ = ("steps", "chunks", "events")
CAUSES = {
    Limit.SEATS: "queue_seats",
    Limit.TOKENS: "queue_tokens",
    Limit.BLOCKS: "queue_memory",
    Limit.GATE: "queue_memory",
}


def recompute(frames: Frames, server: Server) -> dict[int, dict[str, int]]:
    """Parts of TTFT by request, step by step, from everything recorded but the parts."""
    found: dict[int, dict[str, int]] = {}
    requests = frames["requests"].set_index("request")
    for replica, ends in frames["step_ends"].groupby("replica"):
        here = requests[requests["replica"] == replica].sort_index()
        mine = {name: frames[name][frames[name]["replica"] == replica] for name in _READ}
        found |= _Replay(here, server, mine).run(mine["steps"], ends["end_ns"].tolist())
    return found


def _sequence(row: Any) -> int:
    return int(row.request + row.branch * BRANCHES)


class _Replay:
    """One replica's queue and prefills, step by step."""

    def __init__(self, requests: pd.DataFrame, server: Server, tables: Frames) -> None:
        self.requests = requests
        self.server = server
        self.parts = {request: dict.fromkeys(PARTS, 0) for request in requests.index}
        self.saved = dict.fromkeys(requests.index, 0)
        self.most = dict.fromkeys(requests.index, 0)
        self.queue: list[int] = []
        self.gave_way: set[int] = set()
        self.prefilling: set[int] = set()
        self.done: set[int] = set()
        self.gone: set[int] = set()
        self.searching: set[int] = set()
        self.unfinished = requests["branches"].to_dict()
        self.of_step: dict[str, dict[int, list[Any]]] = {"events": {}, "chunks": {}}
        for name, by_step in self.of_step.items():
            for row in tables[name].itertuples():
                by_step.setdefault(row.step, []).append(row)

    def run(self, steps: pd.DataFrame, ends_ns: list[int]) -> dict[int, dict[str, int]]:
        not_yet = list(self.requests.index)
        unrolled = [
            (row, step, row.start_ns if step == row.first_step else ends_ns[step - 1])
            for row in steps.itertuples()
            for step in range(row.first_step, row.first_step + row.steps)
        ]
        starts_ns = [start_ns for _, _, start_ns in unrolled] + ends_ns[-1:]
        for row, step, start_ns in unrolled:
            # With two batches in flight a step is decided when the one before it starts.
            planned_ns = starts_ns[step - 1] if self.server.asynchronous else start_ns
            if step == row.first_step:
                planned_ns = row.planned_ns
            while not_yet and self.requests["arrival_ns"][not_yet[0]] <= planned_ns:
                request = not_yet.pop(0)
                flight_ns = start_ns - self.requests["arrival_ns"][request]
                self.parts[request]["queue_flight"] += flight_ns
                self.queue.append(request)
            self.step(row, step, ends_ns[step] - start_ns, starts_ns[step + 1] - start_ns)
        assert self.done >= set(self.requests.index)
        return {
            request: {
                **parts,
                "host": parts["host"] + self.server.front_end_ns,
                "saved_by_prefix": self.saved[request],
            }
            for request, parts in self.parts.items()
        }

    def step(self, row: Any, step: int, duration_ns: int, until_next_ns: int) -> None:
        events = [
            (Event(e.event), _sequence(e), e.tokens) for e in self.of_step["events"].get(step, [])
        ]
        for event, request, _ in events:
            if event is Event.PREEMPT and request not in self.gone:
                self.queue.insert(0, request)
                self.gave_way.add(request)
                self.prefilling.discard(request)
        for event, request, tokens in events:
            if event in (Event.ADMIT, Event.RESUME):
                self.queue.remove(request)
                self.gave_way.discard(request)
                if request not in self.done:
                    self.prefilling.add(request)
                    self.most[request] = max(self.most[request], tokens)
                if event is Event.ADMIT:
                    self.saved[request] = self.alone(0, tokens)
        for event, request, tokens in events:
            if event in (Event.SWAP_OUT, Event.SWAP_IN) and request not in self.done:
                blocks, out = -(-tokens // self.server.block_size), event is Event.SWAP_OUT
                swap_ns = int(self.server.latency.swap(blocks * out, blocks * (not out)))
                self.parts[request]["transfer"] += swap_ns
                self.parts[request]["preemption" if out else "interference"] -= swap_ns
        self.wait(row, until_next_ns)
        for request in self.searching:
            self.parts[request]["search"] += duration_ns
        idle = set(self.prefilling)
        for chunk in self.of_step["chunks"].get(step, []):
            if _sequence(chunk) in self.prefilling:
                idle.remove(_sequence(chunk))
                self.compute(chunk, duration_ns)
                if _sequence(chunk) in self.prefilling:
                    self.parts[_sequence(chunk)]["interference"] += until_next_ns - duration_ns
        for request in idle:
            self.parts[request]["interference"] += until_next_ns
        self.gone |= {request for event, request, _ in events if event is Event.FINISH}
        self.queue = [request for request in self.queue if request not in self.gone]
        self.done |= {request for event, request, _ in events if event is Event.FORK}
        for event, sequence, _ in events:
            if event is Event.FINISH and (request := sequence % BRANCHES) in self.searching:
                self.unfinished[request] -= 1
                if not self.unfinished[request]:
                    self.searching.remove(request)
        for request in self.searching:
            self.parts[request]["search"] += until_next_ns - duration_ns

    def wait(self, row: Any, duration_ns: int) -> None:
        head = self.refused_head(row)
        for request in self.queue:
            if request in self.done:
                continue
            if request in self.gave_way:
                part = "preemption"
            elif head is not None and request != head:
                part = "queue_behind"
            else:
                part = CAUSES[row.limit]
            self.parts[request][part] += duration_ns

    def refused_head(self, row: Any) -> int | None:
        """Who was looked at, and found no room."""
        spent = row.chunk_tokens + row.decodes == self.server.limits.max_num_batched_tokens
        taken = row.running + sum(self.requests["branches"][each] - 1 for each in self.prefilling)
        looked = (
            row.limit in (Limit.BLOCKS, Limit.GATE)
            or (row.limit == Limit.TOKENS and not spent)
            or (row.limit == Limit.SEATS and taken < self.server.limits.max_num_seqs)
        )
        if row.preempted or not looked:
            return None
        return min(self.queue, key=self.rank) if self.server.priority else self.queue[0]

    def rank(self, sequence: int) -> tuple[int, int, str]:
        branch, request = divmod(sequence, BRANCHES)
        row = self.requests.loc[request]
        name = f"{branch}_{row['id']}" if row["branches"] > 1 else row["id"]
        return row["priority"], row["arrival_ns"], name

    def compute(self, chunk: Any, duration_ns: int) -> None:
        request = _sequence(chunk)
        parts = self.parts[request]
        again = min(chunk.tokens, max(0, self.most[request] - chunk.computed_before))
        again_ns = self.alone(chunk.computed_before, again)
        host_ns = self.server.latency.host_ns
        parts["own"] += chunk.alone_ns - again_ns
        parts["preemption"] += again_ns
        parts["host"] += host_ns
        parts["interference"] += duration_ns - host_ns - chunk.alone_ns
        computed = chunk.computed_before + chunk.tokens
        self.most[request] = max(self.most[request], computed)
        if computed == self.requests["prompt_tokens"][request]:
            self.prefilling.remove(request)
            self.done.add(request)
            if self.requests["beam"][request]:
                self.searching.add(request)

    def alone(self, computed_before: int, n: int) -> int:
        return int(self.server.latency.alone(computed_before, n))
