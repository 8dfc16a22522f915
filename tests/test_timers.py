"""CUDA's timer over a device that is only a clock; and that nothing captured asks the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from calibrate.kernels.errors import KernelError, Unsupported
from calibrate.llama_shape import LlamaShape
from calibrate.measure.bench import Bench, Pools
from calibrate.measure.grid import HOST_OPERATORS, make_grid
from calibrate.measure.limits import Limits
from calibrate.measure.random_steps import RandomStep
from calibrate.measure.refusals import kernel_errors
from calibrate.measure.timers import CpuTimer, CudaTimer, Reading, make_timer
from calibrate.runner_parts import find_kernels

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = LlamaShape(
    name="small",
    layers=2,
    hidden_size=32,
    heads=4,
    kv_heads=2,
    head_size=16,
    mlp_size=32,
    vocab_size=64,
    max_positions=64,
)


class Gpu:
    """torch.cuda as far as the timer uses it. Work takes its time on the device's clock only, and
    a start of a graph takes 8 us in which the device waits, unless it is busy."""

    START_NS = 8_000.0

    def __init__(self) -> None:
        self.now_ns = 0.0
        self.busy_ns = 0.0
        self.capturing: list[float] | None = None
        self.broken = False
        self.current = "default"
        self.captured: list[int] = []
        self.made: list[str] = []

    def work(self, ns: float) -> None:
        if self.capturing is not None:
            self.capturing.append(ns)
        else:
            self.wait_for_host()
            self.now_ns += ns

    def wait_for_host(self) -> None:
        """The host needs START_NS to launch what comes; a device that still sleeps loses none."""
        lost = max(0.0, self.START_NS - self.busy_ns)
        self.now_ns += lost
        self.busy_ns = max(0.0, self.busy_ns - self.START_NS)

    def synchronize(self, *_: object) -> None:
        if self.capturing is not None:
            self.broken = True
            raise RuntimeError("operation not permitted when stream is capturing")
        self.busy_ns = 0.0

    def sleep(self, cycles: int) -> None:
        self.busy_ns = cycles / 2
        self.now_ns += self.busy_ns

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    device = Gpu()

    class Stream:
        def __init__(self) -> None:
            self.name = f"aside {len(device.made)}"
            device.made.append(self.name)

        def wait_stream(self, _: object) -> None: ...

        def synchronize(self) -> None:
            device.synchronize()

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.at_ns = 0.0

        def record(self) -> None:
            self.at_ns = device.now_ns

        def synchronize(self) -> None:
            device.synchronize()

        def elapsed_time(self, end: Event) -> float:
            return (end.at_ns - self.at_ns) / 1e6

    class Graph:
        def capture_begin(self) -> None:
            assert device.current != "default"
            self.work: list[float] = []
            device.capturing, device.broken = self.work, False

        def capture_end(self) -> None:
            device.capturing = None
            if device.broken:
                raise RuntimeError("operation failed due to a previous error during capture")
            device.captured.append(len(self.work))

        def replay(self) -> None:
            device.wait_for_host()
            device.now_ns += sum(self.work)

    default = Stream()
    for name, value in {
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "synchronize": device.synchronize,
        "empty_cache": lambda: None,
        "current_stream": lambda: default,
        "stream": device.stream,
        "_sleep": device.sleep,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return device


@pytest.mark.parametrize(("name", "told"), [("cuda", []), ("cuda:1", [torch.device("cuda:1")])])
def test_cuda_without_a_number_is_the_current_one(
    monkeypatch: pytest.MonkeyPatch, name: str, told: list[torch.device]
) -> None:
    """torch.cuda.set_device raises ValueError for it."""
    seen: list[torch.device] = []

    def set_device(device: torch.device) -> None:
        assert device.index is not None
        seen.append(device)

    class Properties:
        L2_cache_size = 60 << 20

    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    assert make_timer(torch.device(name)).cache_bytes == 60 << 20
    assert seen == told


def test_the_start_of_a_graph_is_not_timed(gpu: Gpu) -> None:
    reading = CudaTimer(0).read([lambda: gpu.work(500.0)])
    assert reading.clock == "cuda_event"
    assert reading.ns == pytest.approx([500.0] * len(reading.ns))


def test_few_short_calls_are_captured_several_times_over(gpu: Gpu) -> None:
    timer = CudaTimer(0)
    timer.read([lambda: gpu.work(500.0)])
    timer.read([lambda: gpu.work(500.0)] * 5)
    timer.read([lambda: gpu.work(500.0)] * 40)
    timer.read([lambda: gpu.work(2e6)] * 4)
    assert gpu.captured == [32, 35, 40, 4]
    assert len(gpu.made) == 2, "the default stream and one beside it"


def test_all_is_called_before_it_is_captured(gpu: Gpu) -> None:
    """What a first call compiles would break a capture, and would be timed."""
    called = [0, 0]

    def call(at: int) -> Callable[[], None]:
        def run() -> None:
            if not called[at]:
                gpu.synchronize()
                gpu.work(1e9)
            called[at] += 1
            gpu.work(1000.0 * (at + 1))

        return run

    reading = CudaTimer(0).read([call(0), call(1)])
    assert reading.clock == "cuda_event"
    assert reading.ns == pytest.approx([1500.0] * len(reading.ns))


def test_what_cannot_be_captured_is_launched_one_by_one(gpu: Gpu) -> None:
    def call() -> None:
        gpu.synchronize()
        gpu.work(3e6)

    reading = CudaTimer(0).read([call])
    assert reading.clock == "cuda_event_eager"
    assert gpu.current == "default"
    assert reading.ns == pytest.approx([3e6] * len(reading.ns), rel=0.01)


def test_nothing_is_captured_that_is_not_to_be(gpu: Gpu) -> None:
    reading = CudaTimer(0).read([lambda: gpu.work(3e6)], graphs=False)
    assert (reading.clock, gpu.captured) == ("cuda_event_eager", [])


def test_full_memory_in_a_capture_is_told(gpu: Gpu) -> None:
    def call() -> None:
        if gpu.capturing is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        CudaTimer(0).read([call])
    assert gpu.current == "default"


def test_a_long_call_is_warmed_up_once(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr("calibrate.measure.timers.time.monotonic", lambda: now_s[0])
    eager = []

    def call() -> None:
        if gpu.capturing is None:
            eager.append(now_s[0])
            now_s[0] += 0.25
        gpu.work(4e8)

    CudaTimer(0).read([call])
    # Once to warm up, once to see how long it is.
    assert len(eager) == 2


# --- errors


class OutOfResources(Exception):
    __module__ = "triton.runtime.errors"


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), MemoryError),
        (OutOfResources("out of resource: shared memory"), KernelError),
        (RuntimeError("CUDA error: invalid configuration argument"), KernelError),
        (Unsupported("no"), Unsupported),
        (AssertionError("a mistake of ours"), AssertionError),
    ],
)
def test_what_a_gpu_refuses_is_one_point(gpu: Gpu, raised: Exception, told: type) -> None:
    with pytest.raises(told) as caught, kernel_errors(CUDA):
        raise raised
    assert type(caught.value) is told


def test_a_device_that_is_lost_ends_the_measurement(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(RuntimeError, match="illegal memory access"), kernel_errors(CUDA):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_mistakes_on_a_cpu_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shapes"), kernel_errors(CPU):
        raise RuntimeError("shapes do not fit")


# --- what is captured


ASKING = (
    *("is_nonzero", "item", "_local_scalar_dense", "equal", "lift_fresh"),
    *("nonzero", "masked_select", "_unique2", "unique_dim"),
)


class NoQuestions(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU, and so breaks a capture: numbers read back,
    masks turned into indices, tensors made from the host's memory."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.name().partition(".")[0].removeprefix("aten::")
        masked = any(
            isinstance(tensor, torch.Tensor) and tensor.dtype == torch.bool
            for indices in args[1:2]
            if isinstance(indices, list | tuple)
            for tensor in indices
        )
        if name in ASKING or (name.startswith("index") and masked):
            raise AssertionError(f"{name} asks the host")
        return function(*args, **(kwargs or {}))


class NoQuestionsTimer(CpuTimer):
    def __init__(self) -> None:
        super().__init__()
        self.read_calls = 0

    def read(self, calls: Any, *, graphs: bool = True) -> Reading:
        for call in calls:
            with NoQuestions() if graphs else torch.no_grad():
                call()
        self.read_calls += len(calls)
        return Reading([1.0], "none")


def bench_of(provider: str) -> tuple[Bench, NoQuestionsTimer]:
    timer = NoQuestionsTimer()
    pools = Pools(tokens=dict.fromkeys(FORMATS, 512), block_size=16)
    kernels = find_kernels(provider)
    bench = Bench(
        SMALL, kernels, timer, device=CPU, dtype="bfloat16", pools=pools, positions=65, seed=0
    )
    return bench, timer


FORMATS = ("bfloat16", "int8_per_token_head", "fp8_e4m3")


def test_nothing_that_is_captured_asks_the_host() -> None:
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    bench, timer = bench_of("triton")
    limits = Limits(tokens=4, batch=2, context=32, pool_tokens=dict.fromkeys(FORMATS, 128))
    points = [p for group in make_grid(FORMATS, limits, dtype="bfloat16") for p in group.points]
    one_of_each = {(point.operator, point.variant, point.format): point for point in points}
    for point in one_of_each.values():
        bench.read(point)
    for format in FORMATS:
        bench.read_step(RandomStep("mixed", ((3, 1), (0, 4)), format))
    assert timer.read_calls > len(one_of_each) == 3 + 1 + 3 * 7 + 2


def test_the_question_that_pure_torch_asks_is_seen() -> None:
    bench, _ = bench_of("torch")
    point = next(
        point
        for group in make_grid(
            FORMATS[:1],
            Limits(tokens=4, batch=2, context=32, pool_tokens={FORMATS[0]: 128}),
            dtype="bfloat16",
        )
        for point in group.points
        if point.operator == "kv_write"
    )
    with pytest.raises(AssertionError, match="asks the host"):
        bench.read(point)


def test_swaps_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, timer = bench_of("torch")
    asked: dict[str, bool] = {}
    limits = Limits(tokens=4, batch=2, context=32, pool_tokens={FORMATS[0]: 128})
    for group in make_grid(FORMATS[:1], limits, dtype="bfloat16"):
        for point in group.points:

            def read(_: Any, *, graphs: bool = True, of: str = point.operator) -> Reading:
                asked[of] = graphs
                return Reading([1.0], "none")

            monkeypatch.setattr(timer, "read", read)
            bench.read(point)
    assert {name for name, graphs in asked.items() if not graphs} == {*HOST_OPERATORS}
