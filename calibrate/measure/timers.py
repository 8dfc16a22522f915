"""How long calls take: CUDA events around replayed graphs, or a process's own CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, Protocol

import torch

Call = Callable[[], object]

WARM_UPS = 3
LONGEST_WARM_UP_S = 0.2
"""After which one round of calls is warm enough."""
FEWEST = 10
SHORTEST_NS = 15_000_000
LONGEST_NS = 400_000_000
"""After which a few repetitions are enough."""
_FEW = 5
_GRAIN_NS = 100_000
"""CPU clocks are read around at least so much work."""
_NODES = 32
"""Calls of a graph, where they are short: what starting it takes is shared by them all."""
_SHORT_NS = 1_000_000
_ASLEEP_CYCLES = 400_000
"""A fifth of a millisecond, in which the host queues what is timed: the device never waits."""


class Reading(NamedTuple):
    """Nanoseconds of one call, once for each repetition."""

    ns: list[float]
    clock: str
    eager_ns: float | None = None
    """From one synchronisation to the next, where it is launched kernel by kernel; of these"""
    launch_ns: float | None = None
    """until the host has launched the last."""


class Timer(Protocol):
    cache_bytes: int
    """What the last cache holds: data that should not come from it must be larger."""

    def read(self, calls: Sequence[Call], *, graphs: bool = True) -> Reading:
        """The time of each of these calls, which do the same on different data, made in turn;
        as parts of CUDA graphs, where there are such and `graphs` are wanted."""
        ...

    def read_eager(self, call: Call) -> tuple[float, float] | None:
        """What a call takes without a graph; None where it makes no difference."""
        ...


def make_timer(device: torch.device) -> Timer:
    """The device's clock; CUDA's current device becomes this one."""
    if device.type == "cuda":
        if device.index is not None:
            # Without a number it is the current one already, and torch refuses to be told so.
            torch.cuda.set_device(device)
        properties = torch.cuda.get_device_properties(device)
        return CudaTimer(int(getattr(properties, "L2_cache_size", 0)))
    torch.set_num_threads(1)
    return CpuTimer()


@dataclass(slots=True)
class CpuTimer:
    """CPU time of the process, which neighbours disturb less than they do the wall clock.

    torch is held to one thread by `make_timer`, so that it is the time of one core. Nothing is
    done to keep data out of a CPU's caches.
    """

    now_ns: Callable[[], int] = time.process_time_ns
    cache_bytes: int = 0

    def read_eager(self, call: Call) -> None:
        return None

    def read(self, calls: Sequence[Call], *, graphs: bool = True) -> Reading:
        rounds = -(-WARM_UPS // len(calls))
        longest = max(self._once(call) for call in [*calls] * rounds)
        grain = max(1, _GRAIN_NS // max(1, longest))

        def sample() -> float:
            start_ns = self.now_ns()
            for _ in range(grain):
                for call in calls:
                    call()
            return (self.now_ns() - start_ns) / (grain * len(calls))

        return Reading(_repeat(sample, grain * len(calls)), "process_time")

    def _once(self, call: Call) -> int:
        start_ns = self.now_ns()
        call()
        return self.now_ns() - start_ns


@dataclass(slots=True)
class CudaTimer:
    """CUDA events around replays of a graph of all calls: kernels, without their launches.

    What cannot be captured is launched one by one between two events (`cuda_event_eager`). Short
    calls are captured several times over, and all is queued while the device is kept busy, so
    that neither an event's half microsecond nor a graph's start is taken for theirs.
    """

    cache_bytes: int
    _aside: torch.cuda.Stream | None = None
    """Where calls are warmed up and captured: what matrices need to work in is its own."""

    def read(self, calls: Sequence[Call], *, graphs: bool = True) -> Reading:
        """Without `graphs` nothing is captured: a copy to the host that is tried in a capture
        spoils it."""
        self._warm_up(calls)
        rounds, replay, clock = 1, _in_turn(calls), "cuda_event_eager"
        if graphs:
            rounds = self._rounds(calls)
            replay, clock = self._capture(_in_turn(calls, rounds))
        if clock == "cuda_event":
            self._warm_up([replay])
        each = len(calls) * rounds

        def sample() -> float:
            return _elapsed_ns(replay) / each

        return Reading(_repeat(sample, each), clock)

    def read_eager(self, call: Call) -> tuple[float, float]:
        """(until the device is done, until the host has launched all) of a call that was made
        before, each the median of a few, in ns of wall time."""
        times = []
        for _ in range(_FEW):
            torch.cuda.synchronize()
            start_ns = time.perf_counter_ns()
            call()
            launched_ns = time.perf_counter_ns()
            torch.cuda.synchronize()
            times.append((time.perf_counter_ns() - start_ns, launched_ns - start_ns))
        done, launched = (float(median(each)) for each in zip(*times, strict=True))
        return done, launched

    def _warm_up(self, calls: Sequence[Call]) -> None:
        """Whatever is compiled, loaded or chosen when first called: no capture may see it."""
        stream = self._stream()
        stream.wait_stream(torch.cuda.current_stream())
        start_s = time.monotonic()
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                for call in calls:
                    call()
                stream.synchronize()
                if time.monotonic() - start_s > LONGEST_WARM_UP_S:
                    break
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()

    def _rounds(self, calls: Sequence[Call]) -> int:
        """How often a graph holds all calls: more than once where they are few and short."""
        if len(calls) >= _NODES or _elapsed_ns(_in_turn(calls)) >= _SHORT_NS:
            return 1
        return -(-_NODES // len(calls))

    def _capture(self, replayed: Call) -> tuple[Call, str]:
        """Not by torch's `with torch.cuda.graph`: where a capture fails, that leaves its stream
        the current one."""
        graph, stream = torch.cuda.CUDAGraph(), self._stream()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        try:
            with torch.cuda.stream(stream):
                graph.capture_begin()
                try:
                    replayed()
                finally:
                    graph.capture_end()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # Raises what is wrong with the device itself.
            torch.cuda.synchronize()
            return replayed, "cuda_event_eager"
        return graph.replay, "cuda_event"

    def _stream(self) -> torch.cuda.Stream:
        if self._aside is None:
            self._aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return self._aside


def _in_turn(calls: Sequence[Call], rounds: int = 1) -> Call:
    def all_of_them() -> None:
        for _ in range(rounds):
            for call in calls:
                call()

    return all_of_them


def _elapsed_ns(call: Call) -> float:
    """On the device, which still sleeps when the host has queued the call."""
    start, end = _event(), _event()
    torch.cuda._sleep(_ASLEEP_CYCLES)  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e6


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _repeat(sample: Callable[[], float], calls: int) -> list[float]:
    """Samples of so many calls each, until there are enough of them, and of time in them."""
    samples: list[float] = []
    spent_ns = 0.0
    while spent_ns < LONGEST_NS or len(samples) < _FEW:
        enough = len(samples) * calls >= FEWEST and len(samples) >= _FEW
        if enough and spent_ns >= SHORTEST_NS:
            break
        samples.append(sample())
        spent_ns += samples[-1] * calls
    return samples
