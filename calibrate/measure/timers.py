"""How long calls take: CUDA events around replayed graphs, or a process's own CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

Call = Callable[[], object]

WARM_UPS = 3
FEWEST = 10
SHORTEST_NS = 15_000_000
LONGEST_NS = 400_000_000
"""After which a few repetitions are enough."""
_FEW = 5
_GRAIN_NS = 100_000
"""CPU clocks are read around at least so much work."""


class Reading(NamedTuple):
    """Nanoseconds of one call, once for each repetition."""

    ns: list[float]
    clock: str


class Timer(Protocol):
    cache_bytes: int
    """What the last cache holds: data that should not come from it must be larger."""

    def read(self, calls: Sequence[Call]) -> Reading:
        """The time of each of these calls, which do the same on different data, made in turn."""
        ...


def make_timer(device: torch.device) -> Timer:
    """The device's clock; CUDA's current device becomes this one."""
    if device.type == "cuda":
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

    def read(self, calls: Sequence[Call]) -> Reading:
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

    What cannot be captured is launched one by one between two events (`cuda_event_eager`).
    """

    cache_bytes: int

    def read(self, calls: Sequence[Call]) -> Reading:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                for call in calls:
                    call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        replay, clock = self._capture(calls)
        for _ in range(WARM_UPS):
            replay()
        torch.cuda.synchronize()

        def sample() -> float:
            start, end = _event(), _event()
            start.record()
            replay()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) * 1e6 / len(calls)

        return Reading(_repeat(sample, len(calls)), clock)

    def _capture(self, calls: Sequence[Call]) -> tuple[Call, str]:
        def eager() -> None:
            for call in calls:
                call()

        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                eager()
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError:
            torch.cuda.synchronize()
            return eager, "cuda_event_eager"
        return graph.replay, "cuda_event"


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
