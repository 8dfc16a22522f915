"""What every scheduler must do: plan what is possible, and answer everybody."""

from __future__ import annotations

import random
from collections.abc import Callable

import simpy

from sim.cluster import Cluster, RoundRobin
from sim.contract.trials import LATENCY, draw_requests, make_engine
from sim.kv.cache import KVCache
from sim.kv.prefix import PrefixCached
from sim.kv.swap import HostTier, SwappedPrefix
from sim.observer import Observer
from sim.plan import Chunk, Departure, Plan
from sim.record.recorder import Recorder
from sim.record.records import Records
from sim.request import Request, Sequence
from sim.scheduling.face import Scheduler


def check_scheduler(
    make: Callable[[KVCache], Scheduler], *, max_num_batched_tokens: int, seed: int = 0
) -> None:
    """Serve random requests under tight memory, with and without swapping, and watch every plan.

    Each plan computes what comes next of sequences that hold room for it, and no more tokens
    than the budget; everybody is answered in full; blocks balance at every step. The cache
    that `make` is given holds at least one request of 60 tokens.
    """
    rng = random.Random(seed)
    for blocks, host_blocks in ((5, 0), (8, 0), (20, 0), (200, 0), (5, 100), (6, 9)):
        kv = PrefixCached(1 + blocks, block_size=16)
        if host_blocks:
            kv = SwappedPrefix(1 + blocks, block_size=16, host=HostTier(host_blocks))
        scheduler = make(kv)
        recorder = Recorder(Records(), scheduler=scheduler, latency=LATENCY, check_every=1)
        watch = _PlanWatch(scheduler, max_num_batched_tokens)
        env = simpy.Environment()
        engine = make_engine(env, scheduler, recorder, watch)
        requests = draw_requests(rng, 40, every_ns=100)
        Cluster(env, [engine], router=RoundRobin()).serve(requests)
        recorder.close()
        assert not scheduler.has_work, "requests were left behind"
        assert watch.answered == len(requests)


class _PlanWatch(Observer):
    """Raises AssertionError for a plan that does not say what it is, or asks for too much."""

    def __init__(self, scheduler: Scheduler, max_num_batched_tokens: int) -> None:
        self.answered = 0
        self._scheduler = scheduler
        self._budget = max_num_batched_tokens
        self._found: dict[Sequence, int] = {}
        """Who is admitted, with the tokens that were found before the first row."""
        self._begun: set[Sequence] = set()
        self._answering: set[Sequence] = set()
        """Who gave a token, and was not preempted since."""

    def refused(self, request: Request, reason: str, now_ns: int) -> None:
        raise AssertionError(f"{request.id} was refused: {reason}")

    def began(self, plan: Plan, now_ns: int) -> None:
        for departure in plan.preempted:
            self._forget(departure.sequence)
        self._found |= {admission.sequence: admission.hit_tokens for admission in plan.admitted}
        rows = plan.rows()
        assert sum(row.n for row in rows) <= self._budget, "over the token budget"
        assert len({row.sequence for row in rows}) == len(rows), "a sequence has two rows"
        running = set(self._scheduler.running)
        for row in rows:
            name = row.sequence.id
            assert row.sequence in running, f"{name} has a row and is not running"
            assert row.sequence in self._found, f"{name} has a row and was not in plan.admitted"
            self._check_row(row)
        for sequence, _, _ in plan.chunks:
            decodes = f"{sequence.id} gave a token, and is not in plan.decodes (sequence.decoding)"
            assert sequence not in self._answering, decodes
        done = [each for each, _, _ in plan.chunks if each.computed == each.num_tokens]
        assert plan.completing == done, "plan.completing is not whose chunk is the last one"
        self._answering |= set(done)

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        for departure in departures:
            sequence = departure.sequence
            unread = f"{sequence.id} ended with {sequence.num_tokens - sequence.computed} tokens"
            assert sequence.computed == sequence.num_tokens - 1, f"{unread} to compute, not with 1"
            assert sequence not in self._scheduler.running, f"{sequence.id} ended, and is running"
            self._forget(sequence)
        self.answered += len(departures)

    def _check_row(self, row: Chunk) -> None:
        """It comes next, was counted, and has room."""
        sequence, computed_before, n = row
        name, computed = sequence.id, sequence.computed
        assert n > 0, f"{name} computes nothing"
        said = f"{name} computes {n} tokens from {computed_before}"
        assert computed_before + n == computed, f"{said}, and sequence.computed is {computed}"
        assert computed <= sequence.num_tokens, f"{said}, and has {sequence.num_tokens}"
        if sequence not in self._begun:
            found = self._found[sequence]
            assert computed_before >= found, f"{said}, though {found} were found in the cache"
            self._begun.add(sequence)
        try:
            self._scheduler.kv.translate(sequence, computed - 1)
        except IndexError:
            raise AssertionError(f"{said}, without room for them (kv.grow)") from None

    def _forget(self, sequence: Sequence) -> None:
        self._found.pop(sequence, None)
        self._begun.discard(sequence)
        self._answering.discard(sequence)
