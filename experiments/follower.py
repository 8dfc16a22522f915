"""Watches one request from arrival to freed blocks."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from experiments.folding import Decoding, Folded, Waiting, wait
from experiments.story import Story, blocks_in_words, count, draw_table, say_return, span
from sim.kv.paged import Paged
from sim.kv.pool import FreeOrder
from sim.kv.prefix import PrefixCached
from sim.moves import Swap, Takes
from sim.parting import Fork
from sim.plan import Admission, Chunk, Departure, Plan
from sim.request import BRANCHES, Request, Sequence
from sim.scheduling.face import Scheduler


class Follower:
    """An observer of one replica that tells the story of one request, if it comes here; of its
    first answer, where it asks for several.

    Decoding is told block by block for `detailed_steps` steps after each admission, and in
    one line from then on, until the request has left: then the story is complete.
    """

    def __init__(
        self,
        story: Story,
        *,
        request: str,
        scheduler: Scheduler,
        free_order: FreeOrder,
        detailed_steps: int,
    ) -> None:
        assert isinstance(scheduler.kv, Paged)
        self.sequence: Sequence | None = None
        """The request, once it has arrived."""
        self._story = story
        self._request = request
        self._scheduler = scheduler
        self._kv: Paged = scheduler.kv
        self._publishes = isinstance(scheduler.kv, PrefixCached)
        self._free_order = free_order
        self._detailed_steps = detailed_steps
        self._undecided = False
        """No step was decided since it arrived."""
        self._wait: Waiting | None = None
        """Why the latest step leaves it in the queue."""
        self._running = False
        self._computed = self._blocks = self._hits = self._decoded = 0
        self._folded: Folded | None = None
        """What goes on, and is told when it ends."""

    # --- what an observer sees

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None:
        if request.id != self._request or sequence.index >= BRANCHES:
            return
        scheduler, kv = self._scheduler, self._kv
        self.sequence, self._undecided, self._story.arrival_ns = sequence, True, now_ns
        self._story.tell(
            f"arrives: a prompt of {count(sequence.prompt_tokens, 'token')}, to be answered with"
            f" {answer_tokens}",
            f"{scheduler.num_running} run and {scheduler.num_waiting - 1} wait;"
            f" {kv.free_blocks:,} of {kv.num_blocks - 1:,} blocks are free",
            at_ns=now_ns,
        )

    def refused(self, request: Request, reason: str, now_ns: int) -> None:
        if request.id == self._request:
            self._story.arrival_ns = now_ns
            self._story.tell(f"turned away: {reason}", at_ns=now_ns, style="red")
            self._story.complete = True

    def began(self, plan: Plan, now_ns: int) -> None:
        if self.sequence is None or self._story.complete:
            return
        self._undecided = False
        for departure in plan.preempted:
            if departure.sequence is self.sequence:
                self._preempted(departure, self._swap_of(plan), now_ns, plan.step)
        for admission in plan.admitted:
            if admission.sequence is self.sequence:
                self._admitted(admission, self._swap_of(plan), now_ns, plan.step)
        chunk = self._chunk_in(plan)
        if chunk is not None:
            self._computes(chunk, now_ns, plan.step)
        elif not self._running:
            self._wait = wait(plan, self.sequence, self._kv, at_ns=now_ns, step=plan.step)

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        if self.sequence is None or self._story.complete:
            return
        if (chunk := self._chunk_in(plan)) is not None:
            self._computed += chunk.n
            if self._computed == self.sequence.num_tokens:
                self._gives_token(ends_ns[-1], plan.step)
            return
        steps = list(enumerate([start_ns, *ends_ns[:-1]], plan.step))
        if self._undecided:
            self._undecided = False
            arrival_ns = self._story.arrival_ns
            under_way = bisect_left(ends_ns, arrival_ns)
            step = steps[under_way][0]
            self._go_on(Waiting(arrival_ns, step, "flight", "the step under way has to end"))
            steps = steps[under_way + 1 :]
            if steps:
                self._wait = wait(plan, self.sequence, self._kv, at_ns=start_ns, step=plan.step)
        decodes = self._running and self.sequence in plan.decodes
        for step, at_ns in steps:
            if decodes:
                self._decodes(step, at_ns)
            elif self._running:
                text = "admitted, but the step's tokens went to those before it"
                self._go_on(Waiting(at_ns, step, "left out", text))
            else:
                assert self._wait is not None
                self._go_on(replace(self._wait, at_ns=at_ns, first_step=step))

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        children = [fork.child for fork in forks if fork.parent is self.sequence]
        if children:
            text = f"forks: {count(len(children), 'more answer')} from here on, sharing all blocks"
            self._story.tell(text, at_ns=now_ns, style="bold")

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        for at, departure in enumerate(departures):
            if departure.sequence is self.sequence:
                self._flush()
                number = departure.sequence.generated
                self._story.tell(
                    f"token {number} of the answer, the last; it is never computed",
                    at_ns=now_ns,
                    style="green",
                )
                later = {block for other in departures[at + 1 :] for block in other.blocks}
                self._gives_back(departure, now_ns, later=later)
                self._story.complete = True

    # --- chapters

    def _admitted(self, admission: Admission, swap: Swap | None, now_ns: int, step: int) -> None:
        self._flush()
        sequence, hit_tokens, woken = admission
        hits = hit_tokens // self._kv.block_size
        self._running, self._decoded = True, 0
        self._computed, self._hits, self._blocks = hit_tokens, hits, hits
        text = "resumes: " if sequence.preemptions else "admitted: "
        text += f"{count(hit_tokens, 'token')} found in the cache"
        if hits:
            text += f", {blocks_in_words(sequence.blocks[:hits])}"
            text += f" ({hits - woken} held by others, {woken} idle)"
        if swap is not None:
            text += f"; {count(swap.tokens, 'token')} copied back from the host, to"
            text += f" {blocks_in_words(swap.blocks)}"
            self._computed += swap.tokens
            self._blocks += len(swap.blocks)
            full = swap.blocks[: swap.tokens // self._kv.block_size]
            if full and self._publishes:
                text += f"; publishes {blocks_in_words(full)}"
        self._story.tell(text, at_ns=now_ns, steps=(step, step), style="bold")

    def _computes(self, chunk: Chunk, now_ns: int, step: int) -> None:
        self._flush()
        sequence, before, n = chunk
        size, blocks = self._kv.block_size, sequence.blocks
        text = f"computes {span('token', before, n)} of {sequence.num_tokens}"
        if len(blocks) > self._blocks:
            text += f"; takes {blocks_in_words(blocks[self._blocks :])}"
        filled = blocks[before // size : (before + n) // size]
        if filled and self._publishes:
            text += f"; publishes {blocks_in_words(filled)}"
        self._blocks = len(blocks)
        self._story.tell(text, at_ns=now_ns, steps=(step, step))

    def _gives_token(self, end_ns: int, step: int) -> None:
        assert self.sequence is not None
        number = self.sequence.generated + 1
        table = draw_table(
            self.sequence.blocks, hits=self._hits, computed=self._computed, kv=self._kv
        )
        text = f"token {number} of the answer"
        self._story.tell(text, *table, at_ns=end_ns, style="green")

    def _decodes(self, step: int, at_ns: int) -> None:
        assert self.sequence is not None
        index, offset = divmod(self._computed, self._kv.block_size)
        self._go_on(
            Decoding(
                at_ns,
                step,
                position=self._computed,
                block=self.sequence.blocks[index],
                taken=offset == 0,
                detailed=self._decoded < self._detailed_steps,
                fills=offset == self._kv.block_size - 1,
                publishes=self._publishes,
            )
        )
        self._computed += 1
        self._decoded += 1
        self._blocks = index + 1

    def _preempted(self, departure: Departure, swap: Swap | None, now_ns: int, step: int) -> None:
        self._flush()
        self._running = False
        text = f"preempted: {count(departure.computed, 'computed token')} "
        if swap is None:
            text += "lost"
        else:
            text += f"copied to host memory, from {blocks_in_words(swap.blocks)}"
        if departure.sequence.generated:
            text += f"; the {count(departure.sequence.generated, 'token')} of the answer stay"
        self._story.tell(text, at_ns=now_ns, steps=(step, step), style="yellow")
        self._gives_back(departure, now_ns, step=step, later=set())

    def _gives_back(
        self, departure: Departure, now_ns: int, *, step: int | None = None, later: set[int]
    ) -> None:
        """`later` are blocks that others gave back after it, at the same moment."""
        lines = say_return(
            departure,
            later=later,
            pool=self._kv.pool,
            block_size=self._kv.block_size,
            free_order=self._free_order,
        )
        steps = None if step is None else (step, step)
        self._story.tell(*lines, at_ns=now_ns, steps=steps)

    # --- folding

    def _go_on(self, what: Folded) -> None:
        if self._folded is None or not self._folded.absorbs(what):
            self._flush()
            self._folded = what

    def _flush(self) -> None:
        """Tell what went on until now."""
        folded, self._folded = self._folded, None
        if folded is not None:
            steps = (folded.first_step, folded.last_step)
            self._story.tell(folded.words(), at_ns=folded.at_ns, steps=steps)

    def _swap_of(self, plan: Plan) -> Swap | None:
        return next((swap for swap in plan.swaps if swap.sequence is self.sequence), None)

    def _chunk_in(self, plan: Plan) -> Chunk | None:
        return next((chunk for chunk in plan.chunks if chunk.sequence is self.sequence), None)
