"""Notes what happens on one replica, as it happens, and makes tables of it at the end."""

from __future__ import annotations

from collections import deque

from sim.kv.cache import KVCache
from sim.kv.swap import Swapped
from sim.latency import LatencyModel
from sim.moves import Takes
from sim.parting import Fork
from sim.plan import Departure, Plan
from sim.record.log import (
    NOBODY,
    Admissions,
    Arrivals,
    Chunks,
    Decisions,
    Departures,
    Log,
    packs,
)
from sim.record.memory import Levels, Memory, Pool, Slots, recount, slots_of
from sim.record.records import Records
from sim.record.rows import make_tables
from sim.request import BRANCHES, Request, Sequence
from sim.scheduling.face import Scheduler

CHECK_EVERY_STEPS = 1000

_ARRIVAL, _DECISION, _ADMISSION, _CHUNK, _DEPARTURE = map(
    packs, (Arrivals, Decisions, Admissions, Chunks, Departures)
)


class Recorder:
    """An observer that fills `Records`.

    `front_end_ns` is the constant time a request spends outside the engine before its first
    token (HTTP, tokenizer); it is added to TTFT and shown as host time. Every `check_every`
    steps the block tables are recounted, and the books must say the same when they are made.
    """

    def __init__(
        self,
        records: Records,
        *,
        scheduler: Scheduler,
        latency: LatencyModel,
        replica: int = 0,
        front_end_ns: int = 0,
        check_every: int = CHECK_EVERY_STEPS,
    ) -> None:
        self._records = records
        self._names = records.names
        self._latency = latency
        self._scheduler = scheduler
        self._replica = replica
        self._front_end_ns = front_end_ns
        self._check_every = check_every
        self._log = log = Log()
        # Looked up once: these are called for everything that happens.
        self._note_arrival = log.arrivals.frombytes
        self._note_decision = log.decisions.frombytes
        self._note_step_ends = log.step_ends.fromlist
        self._note_admission = log.admissions.frombytes
        self._note_chunk = log.chunks.frombytes
        self._note_departure = log.departures.frombytes
        self._decisions = 0
        """Made so far that became steps; of them"""
        self._ran = 0
        """so many have run."""
        self._heads: deque[list[int] | None] = deque()
        """What is known of the plans in flight since they were made; None of idle ones."""
        self._decoding: dict[Sequence, None] = {}
        """Sequences that have a token and stay."""
        self._paused: dict[Sequence, None] = {}
        """Those of them that the latest plan left out."""
        self._ended_in_flight: dict[Sequence, int] = {}
        """Sequences whose answers have ended, and the last decision that may be about them."""
        self._final_tokens: dict[int, int] = {}
        """By sequence: the tokens that it will ever have computed."""
        self._recounts: list[tuple[int, Slots[int], int | None]] = []

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None:
        index, prompt_tokens = sequence.index, sequence.prompt_tokens
        wanted, priority, beam = request.output_tokens, sequence.priority, request.beam
        self._note_arrival(
            _ARRIVAL(index, now_ns, prompt_tokens, answer_tokens, wanted, priority, beam)
        )
        self._final_tokens[index] = prompt_tokens + answer_tokens - 1
        self._names[index % BRANCHES] = (request.id, request.tenant, request.session)

    def refused(self, request: Request, reason: str, now_ns: int) -> None:
        self._records.refused.append((request, reason))

    def began(self, plan: Plan, now_ns: int) -> None:
        scheduler, decodes, head = self._scheduler, plan.decodes, plan.refused
        kv, decision = scheduler.kv, self._decisions
        num_decodes = len(decodes)
        if not (num_decodes or plan.chunks or plan.preempted):
            self._heads.append(None)
            return
        self._decisions += 1
        for departure in plan.preempted:
            stay = departure.sequence.preemptions - 1
            self._leaves(departure, decision=decision, stay=stay, finished=0)
        for sequence, hit_tokens, woken_blocks in plan.admitted:
            index, stay = sequence.index, sequence.preemptions
            room = len(sequence.blocks) if kv.reserves else 0
            self._note_admission(_ADMISSION(decision, index, stay, hit_tokens, woken_blocks, room))
        for sequence, out, tokens, blocks, _ in plan.swaps:
            stay = sequence.preemptions - out
            self._log.swaps.fromlist([decision, sequence.index, stay, out, tokens, len(blocks)])
        for _, _, sequence, position in plan.copies:
            self._log.copies.fromlist([decision, sequence.index, position])
        if self._paused or num_decodes != len(self._decoding):
            self._note_pauses(plan)
        completing = plan.completing
        for sequence, computed_before, n in plan.chunks:
            index, stay, completes = sequence.index, sequence.preemptions, sequence in completing
            self._note_chunk(_CHUNK(decision, index, stay, computed_before, n, completes))
        for sequence in completing:
            self._decoding[sequence] = None
        facts = [
            plan.step,
            self._ran,
            now_ns,
            plan.limit,
            NOBODY if head is None else head.index,
            0 if head is None else head.preemptions,
            scheduler.num_running,
            scheduler.num_waiting,
            num_decodes,
            decodes.context_sum,
            kv.free_blocks,
            kv.idle_blocks,
            kv.free_blocks if head is not None and kv.is_scattered(head) else 0,
        ]
        self._heads.append(facts)

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        kv, steps, head = self._scheduler.kv, len(ends_ns), self._heads.popleft()
        if head is None:
            return
        self._note_step_ends(ends_ns)
        self._note_decision(
            _DECISION(
                *head,
                steps,
                start_ns,
                ends_ns[-1],
                kv.free_blocks,
                kv.idle_blocks,
                kv.evicted_blocks,
                self._count_wasted(plan) if self._ended_in_flight else 0,
                len(takes.offsets),
            )
        )
        if takes.offsets:
            for column, values in zip(self._log.takes, takes, strict=True):
                column.fromlist(values)
        if plan.step % self._check_every + steps >= self._check_every:
            self._recount(external=head[-1])
        self._ran += 1

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        final_tokens = self._final_tokens
        for parent, child in forks:
            self._log.forks.fromlist([self._ran - 1, child.index, child.computed])
            self._decoding[child] = None
            final_tokens[child.index] = final_tokens[parent.index]

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        for departure in departures:
            sequence = departure.sequence
            self._leaves(departure, decision=self._ran - 1, stay=sequence.preemptions, finished=1)
            del self._final_tokens[sequence.index]
            if self._heads:
                self._ended_in_flight[sequence] = self._decisions - 1

    def close(self) -> None:
        """The run is over: work out its tables, and compare them with what was recounted."""
        self._scheduler.check()
        kv = self._scheduler.kv
        facts = self._log.read(kv)
        self._log = Log()
        tables, memory = make_tables(
            facts, self._latency, replica=self._replica, front_end_ns=self._front_end_ns
        )
        for decision, *counted in self._recounts:
            booked = [_slots_at(memory, decision, kv), memory.host_blocks[decision]]
            if counted[-1] is None:  # only our own cache tells
                booked[-1] = None
            assert counted == booked, f"decision {decision}: recounted {counted}, booked {booked}"
        self._records.add(tables, memory.slot_ns)

    def _recount(self, *, external: int) -> None:
        """Raise AssertionError where the scheduler's books do not balance. Slow."""
        self._scheduler.check()
        kv, running = self._scheduler.kv, self._scheduler.running
        slots = recount(kv, running, self._final_tokens, external=external)
        host = kv.host.used if isinstance(kv, Swapped) else None
        self._recounts.append((self._ran, slots, host))

    def _leaves(self, departure: Departure, *, decision: int, stay: int, finished: int) -> None:
        sequence, computed, _, shared = departure
        index, generated = sequence.index, sequence.generated
        self._note_departure(
            _DEPARTURE(decision, index, stay, computed, shared, generated, finished)
        )
        self._decoding.pop(sequence, None)
        self._paused.pop(sequence, None)

    def _count_wasted(self, plan: Plan) -> int:
        ended = self._ended_in_flight
        wasted = sum(sequence in ended for sequence in plan.decodes)
        self._ended_in_flight = {seq: last for seq, last in ended.items() if last > self._ran}
        return wasted

    def _note_pauses(self, plan: Plan) -> None:
        """A decode may be left out of a plan, and be there again later."""
        there = set(plan.decodes)
        for sequence in self._decoding:
            paused = sequence not in there
            if paused == (sequence in self._paused):
                continue
            row = [self._decisions - 1, sequence.index, sequence.preemptions, paused]
            self._log.pauses.fromlist(row)
            if paused:
                self._paused[sequence] = None
            else:
                del self._paused[sequence]


def _slots_at(memory: Memory, decision: int, kv: KVCache) -> Slots[int]:
    """The slots during the last step of a decision."""
    levels = Levels(*(int(level[decision]) for level in memory.last))
    return slots_of(levels, Pool(kv.num_blocks, kv.null_blocks, kv.block_size))
