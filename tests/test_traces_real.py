"""The real traces, whole: what their README says of them must come out of the readers."""

from __future__ import annotations

import numpy as np
import pytest

from sim.request import Request
from tests.shared import SHARED, needs_shared
from traces.azure import AzureTrace
from traces.contract import check_trace
from traces.mooncake import MooncakeTrace
from traces.native import NativeTrace
from traces.reader import open_trace
from traces.schema import TraceError

pytestmark = needs_shared

TRACES = SHARED / "traces"
CONVERSATION = TRACES / "azure-2023" / "AzureLLMInferenceTrace_conv.csv"
CODE = TRACES / "azure-2023" / "AzureLLMInferenceTrace_code.csv"
MOONCAKE = TRACES / "mooncake" / "conversation_trace.jsonl.gz"
LENGTHS = TRACES / "sharegpt-lengths" / "sharegpt.csv"
GOLDEN = sorted((SHARED / "vllm-golden").glob("*/trace.jsonl"))


def lengths(requests: list[Request]) -> tuple[list[float], list[float]]:
    """Mean, median and 99th percentile of prompts, then of answers, as the README rounds."""
    columns = [
        np.array([request.prompt_tokens for request in requests]),
        np.array([request.output_tokens for request in requests]),
    ]
    prompts, answers = (
        [round(float(column.mean()), 1), *np.percentile(column, [50, 99]).tolist()]
        for column in columns
    )
    return prompts, answers


def test_azure_conversation() -> None:
    trace = open_trace(CONVERSATION)
    assert type(trace) is AzureTrace
    requests = list(trace)
    assert len(requests) == 19_366
    assert requests[-1].arrival_ns == 3_501_721_937_000
    assert sum(request.prompt_tokens for request in requests) == 22_361_870
    assert sum(request.output_tokens for request in requests) == 4_088_665
    assert lengths(requests) == ([1154.7, 1020, pytest.approx(4142)], [211.1, 129, 601])
    gaps = np.diff([request.arrival_ns for request in requests])
    assert gaps.std() / gaps.mean() == pytest.approx(1.09, abs=0.005)
    assert gaps.min() > 0
    assert trace.notes == {}
    assert trace.shifted_by == "2023-11-16 18:15:46.6805900"
    check_trace(trace)


def test_azure_code() -> None:
    trace = open_trace(CODE)
    requests = list(trace)
    assert len(requests) == 8_819
    assert requests[-1].arrival_ns / 1e9 == pytest.approx(3435.9, abs=0.05)
    prompts, answers = lengths(requests)
    assert (prompts[:2], answers[:2]) == ([2047.8, 1469], [27.9, 13])
    gaps = np.diff([request.arrival_ns for request in requests])
    assert gaps.std() / gaps.mean() == pytest.approx(13.15, abs=0.005)
    check_trace(trace)


def test_mooncake_conversation() -> None:
    trace = open_trace(MOONCAKE)
    assert type(trace) is MooncakeTrace
    requests = list(trace)
    assert len(requests) == 12_031
    assert requests[-1].arrival_ns == 3_536_999_000_000
    assert len({request.arrival_ns for request in requests}) == 1_180
    prompts, answers = lengths(requests)
    assert (prompts[:2], answers[:2]) == ([pytest.approx(12035, abs=0.5), 6909], [342.6, 350])
    check_trace(trace)


def test_mooncake_shares_the_prefixes_it_says() -> None:
    """Ideal hits: tokens in the leading run of blocks seen before, in an endless cache."""
    seen: set[int] = set()
    prompt_tokens = any_block = full_blocks = 0
    for request in MooncakeTrace(MOONCAKE):
        hit = hit_full = 0
        for stream, _, length in request.prompt:
            if stream not in seen:
                break
            hit += length
            hit_full += length if length == 512 else 0
        prompt_tokens += request.prompt_tokens
        any_block += hit
        # One token must still be computed, and with it its block.
        full_blocks += hit_full if hit_full < request.prompt_tokens else hit_full - 512
        seen.update(stream for stream, _, _ in request.prompt)
    assert round(100 * any_block / prompt_tokens, 1) == 37.4
    assert round(100 * full_blocks / prompt_tokens, 1) == 37.3


def test_lengths_get_the_arrivals_that_the_config_gives() -> None:
    with pytest.raises(TraceError) as refused:
        list(open_trace(LENGTHS))
    assert str(refused.value) == (
        f"{LENGTHS}:2: found lengths without arrival times; allowed: arrivals_per_second: N"
        " (Poisson, drawn with the seed) or at_once: true"
    )
    requests = list(open_trace(LENGTHS, at_once=True))
    assert len(requests) == 58_787
    prompts, answers = lengths(requests)
    assert (prompts, answers) == ([298.8, 36, pytest.approx(3473, abs=0.5)], [323.7, 280, 999])
    assert {request.arrival_ns for request in requests} == {0}
    poisson = list(open_trace(LENGTHS, arrivals_per_second=20.0, seed=7))
    gaps = np.diff([request.arrival_ns for request in poisson]) / 1e9
    # 58,786 exponential gaps: 5 standard errors of the mean, and of the deviation.
    assert gaps.mean() == pytest.approx(0.05, rel=5 / 242)
    assert gaps.std() == pytest.approx(0.05, rel=8 / 242)


def test_burstgpt() -> None:
    trace = open_trace(TRACES / "burstgpt" / "BurstGPT_1.head400.csv")
    requests = list(trace)
    assert trace.notes == {"requests with zero prompt tokens dropped": 17}
    assert trace.shifted_by == "Timestamp = 5"
    assert len(requests) == 383
    assert requests[1] == Request("r00001", 40 * 10**9, ((2, 0, 1087),), 230, 3)
    check_trace(trace)


def test_mooncake_ties_are_spread_over_its_grid() -> None:
    plain = list(MooncakeTrace(MOONCAKE))
    trace = MooncakeTrace(MOONCAKE, jitter_grid_ms=3000, seed=1)
    spread = list(trace)
    assert [request.id for request in spread] == [request.id for request in plain]
    moved_ns = [b.arrival_ns - a.arrival_ns for a, b in zip(plain, spread, strict=True)]
    assert min(moved_ns) >= 0
    assert max(moved_ns) < 3 * 10**9
    assert len({request.arrival_ns for request in spread}) == 12_031
    gaps = np.diff([request.arrival_ns for request in spread])
    # The artefact of the grid is gone: the README's 3.03 becomes that of a Poisson process.
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.1)
    check_trace(trace)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.parent.name)
def test_recorded_runs(path: object) -> None:
    trace = open_trace(str(path))
    assert type(trace) is NativeTrace
    check_trace(trace)


def test_recorded_arrivals_are_exact() -> None:
    first = next(iter(NativeTrace(SHARED / "vllm-golden" / "s3_prefix_chat" / "trace.jsonl")))
    assert first == Request("r0000", 1_333_016_000, ((1, 0, 264), (6, 0, 70)), 388, 7)
