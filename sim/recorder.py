"""Writes down what happens on one replica, as it happens."""

from __future__ import annotations

from sim.latency import LatencyModel
from sim.memory import Levels, MemoryBook
from sim.plan import Departure, Plan, Take
from sim.record import Event, Records, Table
from sim.request import Request, Sequence
from sim.scheduling.face import Scheduler
from sim.ttft import Ttft, TtftBook

CHECK_EVERY_STEPS = 1000


class _Progress:
    """What a request's row will say, as far as it is known."""

    __slots__ = ("admit_ns", "first_token_ns", "hit_tokens", "ttft", "wanted")

    def __init__(self, wanted_tokens: int) -> None:
        self.wanted = wanted_tokens
        self.admit_ns = 0
        self.first_token_ns = 0
        self.hit_tokens = 0
        self.ttft: Ttft | None = None


class _StepRow:
    """A row of `steps` while it grows."""

    __slots__ = (
        "_head",
        "_kind",
        "_levels",
        "end_ns",
        "evicted_blocks",
        "finished",
        "last",
        "steps",
    )

    def __init__(
        self, plan: Plan, levels: Levels, *, replica: int, scheduler: Scheduler, now_ns: int
    ) -> None:
        self.steps = 0
        self.end_ns = now_ns
        self.finished = 0
        self.evicted_blocks = 0
        self._levels = self.last = levels
        decodes, chunks, admitted = plan.decodes, plan.chunks, plan.admitted
        self._kind = None if chunks or admitted or plan.preempted else (plan.limit, len(decodes))
        """What following steps must have in common with this one; None if nothing will do."""
        self._head = (
            replica,
            plan.step,
            now_ns,
            plan.limit,
            scheduler.num_running,
            scheduler.num_waiting,
            len(decodes),
            decodes.context_sum,
            len(chunks),
            sum([chunk[2] for chunk in chunks]),
            len(admitted),
            sum([admission[1] for admission in admitted]),
            len(plan.preempted),
            len(plan.copies),
        )

    def goes_on_with(self, plan: Plan) -> bool:
        """Is the plan more of the same?"""
        return (
            self._kind is not None
            and not self.finished
            and not (plan.chunks or plan.admitted or plan.preempted)
            and self._kind == (plan.limit, len(plan.decodes))
        )

    @property
    def last_step(self) -> int:
        return self._head[1] + self.steps - 1

    def write(self, steps: Table) -> None:
        """In the order of `sim.record.STEP_ROW`."""
        steps.append(
            (
                *self._head,
                self.steps,
                self.end_ns,
                self.finished,
                self.evicted_blocks,
                *self._levels,
                *self.last,
            )
        )


class Recorder:
    """An observer that fills `Records`.

    `front_end_ns` is the constant time a request spends outside the engine before its first
    token (HTTP, tokenizer); it is added to TTFT and shown as host time. Counters are checked
    against a full recount every `check_every` steps.
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
        self.records = records
        self.memory = MemoryBook(scheduler.kv)
        self._ttft = TtftBook(latency)
        self._latency = latency
        self._scheduler = scheduler
        self._replica = replica
        self._front_end_ns = front_end_ns
        self._check_every = check_every
        self._progress: dict[Sequence, _Progress] = {}
        self._segments: dict[Sequence, int] = {}
        """The step since which a sequence has given a token in every step."""
        self._paused: dict[Sequence, None] = {}
        """Sequences that would give tokens, but the latest plan left them out."""
        self._tables = records.tables
        self._row: _StepRow | None = None
        self._evicted = 0
        self._step_ends = records.open_replica(
            num_blocks=scheduler.kv.num_blocks, block_size=scheduler.kv.block_size
        )

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None:
        self._progress[sequence] = _Progress(request.output_tokens)
        self._ttft.arrived(sequence, now_ns)
        self.memory.arrived(sequence, answer_tokens)

    def refused(self, request: Request, reason: str, now_ns: int) -> None:
        self.records.refused.append((request, reason))

    def began(self, plan: Plan, now_ns: int) -> None:
        self._ttft.began(plan, now_ns)
        for sequence, computed, _, _ in plan.preempted:
            self._note(plan.step, Event.PREEMPT, sequence, computed)
            self._paused.pop(sequence, None)
            self._close_segment(sequence, plan.step)
        if self._paused or len(plan.decodes) != len(self._segments):
            self._reconcile_segments(plan)
        levels = self.memory.began(plan)
        for sequence, hit_tokens, _, resumed in plan.admitted:
            if resumed:
                self._note(plan.step, Event.RESUME, sequence, hit_tokens)
            else:
                self._note(plan.step, Event.ADMIT, sequence, hit_tokens)
                progress = self._progress[sequence]
                progress.admit_ns = now_ns
                progress.hit_tokens = hit_tokens
        row = self._row
        if row is None or not row.goes_on_with(plan):
            self._flush()
            self._row = _StepRow(
                plan, levels, replica=self._replica, scheduler=self._scheduler, now_ns=now_ns
            )

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: list[Take]) -> None:
        end_ns = ends_ns[-1]
        self._step_ends.extend(ends_ns)
        row = self._row
        assert row is not None
        row.last = self.memory.ran(plan, start_ns, ends_ns, takes)
        row.steps += len(ends_ns)
        row.end_ns = end_ns
        evicted, self._evicted = self._evicted, self._scheduler.kv.evicted_blocks
        row.evicted_blocks += self._evicted - evicted
        alone_ns = [
            int(self._latency.alone(computed_before, n)[0]) for _, computed_before, n in plan.chunks
        ]
        for sequence, ttft in self._ttft.ran(plan, start_ns, ends_ns, alone_ns):
            ttft.host += self._front_end_ns
            progress = self._progress[sequence]
            progress.ttft = ttft
            progress.first_token_ns = end_ns
        for (sequence, computed_before, n), alone in zip(plan.chunks, alone_ns, strict=True):
            self._tables["chunks"].append(
                (self._replica, plan.step, sequence.index, computed_before, n, alone)
            )
            if sequence.computed == sequence.num_tokens:
                self._segments[sequence] = plan.step
        if (plan.step + len(ends_ns)) // self._check_every > plan.step // self._check_every:
            self.check()

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        assert self._row is not None
        self._row.finished = len(departures)
        self.memory.ended(departures)
        for departure in departures:
            self._finish(departure.sequence, now_ns)

    def close(self) -> None:
        """The run is over: write the row still open, and check the books once more."""
        self._flush()
        self.check()
        self.records.slot_ns.append(list(self.memory.slot_ns()))
        assert not self._progress, f"{len(self._progress)} requests were never answered"

    def check(self) -> None:
        self._scheduler.check()
        self.memory.check(self._scheduler.running)

    def _note(self, step: int, event: Event, sequence: Sequence, tokens: int) -> None:
        self._tables["events"].append((self._replica, step, event, sequence.index, tokens))

    def _close_segment(self, sequence: Sequence, end_step: int) -> None:
        """The sequence, if it was giving tokens, gave one in each step before `end_step`."""
        first = self._segments.pop(sequence, None)
        if first is not None:
            row = (self._replica, sequence.index, first, end_step - first)
            self._tables["segments"].append(row)

    def _reconcile_segments(self, plan: Plan) -> None:
        """A decode may be left out of a plan: its segment ends, and another begins later."""
        decodes = set(plan.decodes)
        for sequence in list(self._paused):
            if sequence in decodes:
                del self._paused[sequence]
                self._segments[sequence] = plan.step
        for sequence in list(self._segments):
            if sequence not in decodes:
                self._close_segment(sequence, plan.step)
                self._paused[sequence] = None
        for sequence in self._paused:
            self.memory.left_out(sequence)

    def _finish(self, sequence: Sequence, now_ns: int) -> None:
        assert self._row is not None
        last_step = self._row.last_step
        self._note(last_step, Event.FINISH, sequence, sequence.generated)
        self._close_segment(sequence, last_step + 1)
        progress = self._progress.pop(sequence)
        ttft = progress.ttft
        assert ttft is not None
        self._tables["requests"].append(
            (
                sequence.index,
                self._replica,
                sequence.arrival_ns,
                progress.admit_ns,
                progress.first_token_ns,
                now_ns,
                sequence.prompt_tokens,
                sequence.generated,
                progress.wanted,
                progress.hit_tokens,
                sequence.preemptions,
                sequence.priority,
                progress.first_token_ns - sequence.arrival_ns + self._front_end_ns,
                *ttft.parts(),
                ttft.saved_by_prefix,
            )
        )
        self.records.ids.append(sequence.id)
        self.records.tenants.append(sequence.tenant)
        self.records.sessions.append(sequence.session)

    def _flush(self) -> None:
        if self._row is not None:
            self._row.write(self._tables["steps"])
            self._row = None
