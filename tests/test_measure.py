"""What is measured, in which order, for how long; and what a stop, or full memory, leaves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.measure.__main__ import main
from calibrate.measure.errors import MeasureError
from calibrate.measure.grid import Group, Point, make_grid
from calibrate.measure.limits import Limits
from calibrate.measure.log import Log, read_lines
from calibrate.measure.loop import MOST_PASSES, PASSES, Loop
from calibrate.measure.random_steps import KINDS, RandomStep, draw_steps
from calibrate.measure.statistics import deviation, settled, spread
from calibrate.measure.timers import CpuTimer, Reading

BF16 = "bfloat16"
HEADER = {"same": {"seed": 0}, "machine": {}, "limits": {}, "budget_s": 1.0}
MODELS = Path(__file__).parents[1] / "calibrate" / "models"


def limits_of(*, tokens: int = 4, batch: int = 2, context: int = 64, pool: int = 256) -> Limits:
    return Limits(tokens=tokens, batch=batch, context=context, pool_tokens={BF16: pool})


def points_of(limits: Limits) -> list[Point]:
    groups = make_grid([BF16], limits, dtype=BF16)
    return [point for group in groups for point in group.points]


# --- the grid


def test_a_small_grid_by_hand() -> None:
    points = points_of(limits_of())
    assert Counter(f"{point.operator} {point.variant}" for point in points) == {
        "linear layer": 4,
        "linear ends": 3,
        "head head": 2,
        "sampling greedy": 2,
        "attention_decode attention_decode": 4,
        "attention_prefill attention_prefill": 2,
        "attention_mixed attention_mixed": 2,
        "kv_write kv_write": 2,
        "block_copy block_copy": 3,
        "swap_in swap_in": 3,
        "swap_out swap_out": 3,
    }
    prefills = [point.place for point in points if point.operator == "attention_prefill"]
    assert prefills == [{"chunk": 4, "chunk_context": 0}, {"chunk": 4, "chunk_context": 64}]


def test_the_neighbours_of_tiles_are_measured() -> None:
    limits = limits_of(tokens=8192, batch=256, context=32_768, pool=10**6)
    tokens = {p.place["tokens"] for p in points_of(limits) if p.variant == "layer"}
    assert {64, 65, 128, 129, 256, 257} <= tokens
    assert len(tokens) == 30


def test_decodes_end_where_the_pool_does() -> None:
    limits = limits_of(tokens=8, batch=8, context=4096, pool=4096)
    decodes = [p.place for p in points_of(limits) if p.operator == "attention_decode"]
    longest = {d["batch"]: d["context"] for d in decodes}
    assert longest == {1: 4096, 2: 2048, 3: 1365, 4: 1024, 6: 682, 8: 512}


def test_a_quantised_cache_is_dequantised() -> None:
    formats = (BF16, "int8_per_token_head")
    pools = dict.fromkeys(formats, 320)
    limits = Limits(tokens=4, batch=2, context=64, pool_tokens=pools)
    points = [p for g in make_grid(formats, limits, dtype=BF16) for p in g.points]
    assert {p.format for p in points if p.operator == "dequantise"} == {"int8_per_token_head"}


sizes = st.builds(
    limits_of,
    tokens=st.integers(2, 20_000),
    batch=st.integers(1, 600),
    context=st.integers(16, 200_000),
    pool=st.integers(256, 10**7),
)


@given(sizes)
def test_no_point_is_beyond_the_limits_or_there_twice(limits: Limits) -> None:
    points = points_of(limits)
    assert len({point.key for point in points}) == len(points)
    for point in points:
        place = point.place
        batch, context = place.get("batch", 0), place.get("context", 0)
        assert batch <= limits.batch
        assert place.get("tokens", 0) <= limits.tokens
        assert context <= limits.context
        chunk, before = place.get("chunk", 0), place.get("chunk_context", 0)
        assert chunk + before + batch * context <= limits.pool_tokens[BF16]
        assert all(value >= (axis != "chunk_context") for axis, value in place.items())


@given(sizes, st.integers(0, 5))
def test_random_steps_are_steps_that_an_engine_could_run(limits: Limits, seed: int) -> None:
    steps = draw_steps(9, formats=(BF16,), limits=limits, seed=seed)
    assert Counter(step.kind for step in steps) == dict.fromkeys(KINDS, 3)
    assert steps == draw_steps(9, formats=(BF16,), limits=limits, seed=seed)
    for step in steps:
        assert 0 < sum(n for _, n in step.spans) <= limits.tokens
        assert sum(map(sum, step.spans)) <= limits.pool_tokens[BF16]
        assert all(before >= 0 < n for before, n in step.spans)
        assert all(before + n <= limits.context for before, n in step.spans)


# --- statistics and clocks


def test_statistics_by_hand() -> None:
    assert deviation([1, 2, 4, 8]) == 1.5
    assert spread([10, 11, 12]) == pytest.approx(2 / 11)
    assert spread([7]) == 0
    assert settled([100, 105, 109])
    assert not settled([100, 105, 112])
    assert not settled([100])
    assert settled([100, 101, 102, 150])
    assert not settled([100, 110, 120, 150])


def timer_of(call_ns: int) -> tuple[CpuTimer, Callable[[], None], list[int]]:
    """A timer over a clock that only calls move."""
    now = [0, 0]

    def call() -> None:
        now[0] += call_ns
        now[1] += 1

    return CpuTimer(now_ns=lambda: now[0]), call, now


@pytest.mark.parametrize(
    ("call_ns", "samples", "calls"),
    [
        (2_000_000, 10, 3 + 10),
        (10_000, 150, 3 + 1500),
        (150_000_000, 5, 3 + 5),
    ],
)
def test_enough_repetitions_and_enough_time(call_ns: int, samples: int, calls: int) -> None:
    timer, call, now = timer_of(call_ns)
    reading = timer.read([call])
    assert reading.ns == [call_ns] * samples
    assert (now[1], reading.clock) == (calls, "process_time")


def test_a_time_is_that_of_one_of_several_calls() -> None:
    timer, call, _ = timer_of(3_000_000)
    assert set(timer.read([call, lambda: (call(), call())]).ns) == {4_500_000}


# --- the file


def test_a_line_that_a_kill_cut_off_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    log = Log(path, HEADER)
    log.add(line_of("a", 0, 5.0))
    log.close()
    with path.open("a") as file:
        file.write('{"kind":"point","key":"b","pa')
    assert [line["kind"] for _, line in read_lines(path)] == ["header", "point"]
    log = Log(path, HEADER)
    assert (log.has("a", 0), log.has("a", 1), log.has("b", 0)) == (True, False, False)
    log.add(line_of("b", 0, 6.0))
    log.close()
    assert [line.get("key") for _, line in read_lines(path)] == [None, "a", "b"]


def test_a_file_of_only_half_a_header_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"kind":"head')
    Log(path, HEADER).close()
    assert [line["kind"] for _, line in read_lines(path)] == ["header"]


@pytest.mark.parametrize("text", ["notes of mine", '{"id":1}\n{"id":2}', '{"kind":"trace"'])
def test_a_file_of_someone_else_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(text)
    with pytest.raises(MeasureError, match=r"m.jsonl:1: found no header of format 1"):
        Log(path, HEADER)
    assert path.read_text() == text


def test_another_measurement_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    Log(path, HEADER).close()
    with path.open("a") as file:
        file.write('{"kind":"point","key":"b","pa')
    before = path.read_bytes()
    with pytest.raises(MeasureError, match=r"holds another measurement, of seed 0; allowed: 1"):
        Log(path, HEADER | {"same": {"seed": 1}})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", r"m.jsonl: found an empty file"),
        ('{"kind":"point"}\n', r"m.jsonl:1: found no header of format 1"),
        ("not json\n", r"m.jsonl:1: found no JSON"),
        ("@\n{\n", r"m.jsonl:2: found no JSON"),
        ('@\n{"kind":"x"}\n', r"m.jsonl:2: found kind 'x'"),
        ('@\n{"kind":"point","key":"a"}\n', r"m.jsonl:2: found kind 'point' without pass, "),
    ],
)
def test_a_damaged_file_is_told_by_its_line(tmp_path: Path, text: str, what: str) -> None:
    header = json.dumps({"kind": "header", "format": 1, **HEADER})
    (tmp_path / "m.jsonl").write_text(text.replace("@", header))
    with pytest.raises(MeasureError, match=what):
        list(read_lines(tmp_path / "m.jsonl"))


def line_of(key: str, turn: int, ns: float) -> dict[str, Any]:
    what = {"operator": "linear", "variant": "layer", "axes": {"tokens": 1}}
    told = {"median_ns": ns, "clock": "process_time", "spent_s": 0.1}
    return {"kind": "point", "key": key, "pass": turn, **what, **told}


# --- the loop


class Bench:
    """Every reading takes a second; what is read is kept."""

    def __init__(
        self,
        *,
        stop_after: int | None = None,
        full: Callable[[Point], bool] = lambda _: False,
        noisy: str | None = None,
    ) -> None:
        self.now_s = 0.0
        self.read_keys: list[str] = []
        self.released = 0
        self.stop_after, self.full, self.noisy = stop_after, full, noisy

    def read(self, point: Point) -> Reading:
        self._count(point.key)
        if self.full(point):
            raise MemoryError("out of memory: 1 TiB\nand a trace")
        times = self.read_keys.count(point.key)
        return Reading([1000.0 * (1 + times * (point.key == self.noisy))], "fake")

    def read_step(self, step: RandomStep) -> Reading:
        self._count("a step")
        return Reading([5000.0, 6000.0, 7000.0], "fake")

    def release(self) -> None:
        self.released += 1

    def _count(self, key: str) -> None:
        if self.stop_after is not None and len(self.read_keys) >= self.stop_after:
            raise KeyboardInterrupt
        self.read_keys.append(key)
        self.now_s += 1.0


GROUPS = make_grid([BF16], limits_of(), dtype=BF16)
ALL = [point for group in GROUPS for point in group.points]
STEPS = draw_steps(7, formats=(BF16,), limits=limits_of(), seed=0)
PLENTY_S = 10_000.0


def loop(
    path: Path, bench: Bench, *, budget_s: float = PLENTY_S, **changed: Any
) -> list[dict[str, Any]]:
    """Run it; the lines of the file behind its header."""
    log = Log(path, HEADER)
    values = {"groups": GROUPS, "steps": STEPS} | changed
    try:
        Loop(
            bench=bench,
            log=log,
            budget_s=budget_s,
            seed=0,
            refusals=(MemoryError,),
            now_s=lambda: bench.now_s,
            **values,  # type: ignore[arg-type]
        ).run()
    finally:
        log.close()
    return [line for _, line in read_lines(path)][1:]


def test_everything_in_three_shuffled_passes(tmp_path: Path) -> None:
    bench = Bench()
    lines = loop(tmp_path / "m.jsonl", bench)
    points = [line for line in lines if line["kind"] == "point"]
    by_pass = [[line["key"] for line in points if line["pass"] == turn] for turn in range(PASSES)]
    assert [sorted(keys) for keys in by_pass] == [sorted(point.key for point in ALL)] * PASSES
    assert by_pass[1] != by_pass[2]
    steps = [line for line in lines if line["kind"] == "step"]
    assert {tuple(map(tuple, line["spans"])) for line in steps} == {step.spans for step in STEPS}
    assert Counter(line["key"] for line in steps) == {f"step/{i}": PASSES for i in range(7)}
    assert (steps[0]["median_ns"], steps[0]["mad_ns"], steps[0]["reps"]) == (6000.0, 1000.0, 3)
    assert [line["kind"] for line in lines[-1:]] == ["end"]
    assert next(line for line in lines if line["kind"] == "cut")["points"] == 0
    # The file says what each line took; together that is all the time there was.
    assert sum(line.get("spent_s", 0) for line in lines) == bench.now_s


def test_whole_steps_lie_between_the_passes(tmp_path: Path) -> None:
    lines = loop(tmp_path / "m.jsonl", Bench())
    kinds = [line["kind"] for line in lines if line["kind"] in ("point", "step")]
    places = [at for at, kind in enumerate(kinds) if kind == "step"]
    assert places == [*range(30, 37), *range(67, 74), *range(104, 111)]


def test_what_the_budget_cuts_is_counted_and_lines_stay_whole(tmp_path: Path) -> None:
    least = sum(len(group.points) for group in GROUPS if group.tier == 0)
    lines = loop(tmp_path / "m.jsonl", Bench(), budget_s=(least + 2) * 5)
    kept = {line["key"] for line in lines if line["kind"] == "point"}
    cut = next(line for line in lines if line["kind"] == "cut")
    assert 0 < cut["points"] == len(ALL) - len(kept) == sum(cut["by"].values())
    for group in GROUPS:
        inside = [point.key in kept for point in group.points]
        assert all(inside) if group.tier == 0 else len(set(inside)) == 1
    tiers = {group.tier for group in GROUPS for point in group.points if point.key not in kept}
    assert 2 in tiers


def test_the_first_tier_is_measured_whatever_the_budget(tmp_path: Path) -> None:
    lines = loop(tmp_path / "m.jsonl", Bench(), budget_s=1e-9)
    kept = [line["key"] for line in lines if line["kind"] == "point"]
    assert sorted(kept) == sorted(p.key for g in GROUPS if g.tier == 0 for p in g.points)
    assert not [line for line in lines if line["kind"] == "step"]


def test_steps_by_themselves_have_the_whole_budget_once(tmp_path: Path) -> None:
    lines = loop(tmp_path / "m.jsonl", Bench(), budget_s=9.0, groups=[])
    steps = [line for line in lines if line["kind"] == "step"]
    assert Counter(line["pass"] for line in steps) == {0: 7, 1: 2}


def test_points_by_themselves_have_all_of_each_third(tmp_path: Path) -> None:
    lines = loop(tmp_path / "m.jsonl", Bench(), budget_s=3.0 * len(ALL), steps=[])
    points = [line for line in lines if line["kind"] == "point"]
    assert Counter(line["pass"] for line in points) == dict.fromkeys(range(PASSES), len(ALL))


def test_clocks_are_asked_for_at_the_end_of_each_pass(tmp_path: Path) -> None:
    lines = loop(tmp_path / "m.jsonl", Bench(), clocks=lambda: {"clocks.sm": "1980 MHz"})
    asked = [at for at, line in enumerate(lines) if line["kind"] == "clocks"]
    assert [lines[at]["pass"] for at in asked] == [0, 1, 2]
    assert [lines[at - 1]["kind"] for at in asked] == ["step"] * 3


@pytest.mark.parametrize("budget_s", [PLENTY_S, 150.0, 70.0])
@pytest.mark.parametrize("stops", [[0], [1], [17], [5, 12, 40], [60, 3]])
def test_a_stopped_measurement_goes_on_and_repeats_nothing(
    tmp_path: Path, budget_s: float, stops: list[int]
) -> None:
    whole = Bench()
    expected = loop(tmp_path / "whole.jsonl", whole, budget_s=budget_s)
    read: list[str] = []
    for stop in stops:
        bench = Bench(stop_after=stop)
        with suppress(KeyboardInterrupt):
            loop(tmp_path / "m.jsonl", bench, budget_s=budget_s)
        read += bench.read_keys
    bench = Bench()
    lines = loop(tmp_path / "m.jsonl", bench, budget_s=budget_s)
    assert lines == expected
    assert read + bench.read_keys == whole.read_keys
    assert loop(tmp_path / "m.jsonl", Bench(stop_after=0), budget_s=budget_s) == expected


def test_what_memory_does_not_hold_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    def is_full(point: Point) -> bool:
        return point.operator == "attention_decode" and point.place["context"] >= 64

    bench = Bench(full=is_full)
    lines = loop(tmp_path / "m.jsonl", bench)
    refused = {line["key"]: line for line in lines if line["kind"] == "unmeasurable"}
    assert set(refused) == {point.key for point in ALL if is_full(point)}
    tried = [key for key in bench.read_keys if key in refused]
    assert bench.released == len(tried) <= len(refused)
    told = {line["reason"] for key, line in refused.items() if key in tried}
    assert told == {"out of memory: 1 TiB"}
    others = {line["reason"] for key, line in refused.items() if key not in tried}
    assert others <= {"larger than what could not be measured"}
    measured = Counter(line["key"] for line in lines if line["kind"] == "point")
    assert measured == {point.key: PASSES for point in ALL if not is_full(point)}


def test_what_is_larger_than_what_did_not_fit_is_not_tried(tmp_path: Path) -> None:
    small, large = (Point("block_copy", "block_copy", (("blocks", n),), BF16) for n in (4, 16))
    assert large.covers(small)
    assert not small.covers(large)
    assert not large._replace(format="float16").covers(small)
    bench = Bench(full=lambda point: True)
    log = Log(tmp_path / "m.jsonl", HEADER)
    groups = [Group(0, (small,)), Group(1, (large,))]
    loop = Loop(
        bench=bench,
        log=log,
        groups=groups,
        steps=[],
        budget_s=PLENTY_S,
        seed=0,
        refusals=(MemoryError,),
        now_s=lambda: bench.now_s,
    )
    loop.run()
    log.close()
    assert bench.read_keys == [small.key]
    assert log.refused == {small.key, large.key}


def test_points_on_which_passes_do_not_agree_are_measured_again(tmp_path: Path) -> None:
    noisy = ALL[3].key
    lines = loop(tmp_path / "m.jsonl", Bench(noisy=noisy))
    counts = Counter(line["key"] for line in lines if line["kind"] == "point")
    assert counts.pop(noisy) == MOST_PASSES
    assert set(counts.values()) == {PASSES}


# --- the plain command


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--device", "tpu"], "--device: found tpu, which torch"),
        (["--device", "cpu", "--provider", "none"], "unknown provider 'none'"),
        (["--device", "cpu", "--dtype", "int4"], "--dtype: found int4"),
        (["--device", "cpu", "--kv-cache-dtype", "fp4"], "--kv-cache-dtype: found fp4"),
        (["--device", "cpu", "--pool-tokens", "16"], "room for a KV cache of 16 tokens"),
        (["--device", "cpu", "--pool-tokens", "99999999999"], "KV pools of"),
        (["--device", "cpu", "--budget", "0"], "--budget: found 0 s"),
        (["--device", "cpu", "--max-context", "2"], "--max-context: found 2; allowed: 16"),
        (
            ["--model", str(MODELS / "OPT-13B.json")],
            "OPT-13B.json: config of OPT-13B: archi",
        ),
        (["--model", "nowhere.json"], "nowhere.json: No such file or directory"),
    ],
)
def test_a_mistake_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], what: str
) -> None:
    model = str(MODELS / "tiny.json")
    out = tmp_path / "m.jsonl"
    if "99999999999" in options:
        options = [*options, "--max-batch", "100000000"]
    assert main(["--model", model, "--out", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert what in error
    assert not out.exists()
