"""`pagesim validate` on made-up cases: what is read, what is said, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from experiments.case import CaseError, find_repeats, read_case
from experiments.case_clock import Choice, set_up
from experiments.case_engine import choose_rules, settle
from experiments.case_requests import _OWN as OWN
from experiments.cli import main as pagesim
from experiments.fidelity import STATISTICS
from tests.cases import STEP_ENGINE, write_kernel_case, write_step_case
from tests.step_logs import SAMPLE
from tests.test_importers import aiconfigurator, llmservingsim


def validate(*words: object) -> Result:
    return CliRunner().invoke(pagesim, ["validate", *map(str, words)])


def report(folder: Path, *words: object) -> dict[str, Any]:
    path = folder.parent / "report.json"
    result = validate(folder, *words, "--json", path)
    assert result.exit_code == 0, result.output
    reports = json.loads(path.read_text())
    assert len(reports) == 1
    return dict(reports[0])


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_case_with_a_profile(tmp_path: Path) -> None:
    case = read_case(write_kernel_case(tmp_path / "tiny"))
    assert [request.id for request in case.requests] == ["0", "1", "2"]
    # Request 0 was sent 1 ms before the clock of the recording began.
    assert [request.arrival_ns for request in case.requests] == [0, 10_000_000, 15_000_000]
    assert case.requests[0].prompt == ((7, 0, 16), (OWN, 0, 4))
    assert case.requests[2].prompt == ((1, 0, 16), (2, 0, 16), (OWN + 4, 0, 8))
    assert case.real["ttft"].tolist() == [30e6, 25e6, 40e6]
    assert case.real["ttft_from_queued"].tolist() == [29e6, 20e6, 35e6]
    assert case.real["tpot"].tolist()[:2] == [10e6, 10e6]
    assert case.real["tpot"].isna().tolist() == [False, False, True]
    assert case.capture_sizes == (1, 2, 4, 8, 16, 24)
    assert case.values["engine"] == {
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "block_size": 16,
        "num_gpu_blocks_override": 2588,
        "gpu_memory_utilization": 0.9,
        "tensor_parallel_size": 1,
        "dtype": "bfloat16",
        "kv_cache_dtype": "auto",
        "scheduling_policy": "fcfs",
        "scheduler": {"kind": "vllm", "version": "0.19"},
    }
    assert case.notes == ("arrivals count from the first request, at -0.001000 s",)


def test_a_case_with_steps_replayed_by_hand(tmp_path: Path) -> None:
    """Steps begin at 1, 21.5 and 51.5 ms; the last one ends at 71 ms."""
    told = report(write_step_case(tmp_path / "two"), "--latency", "replay")
    ttft, queued, tpot, e2e = (
        told["metrics"][f"{name}_ms"] for name in ("ttft", "ttft_from_queued", "tpot", "e2e")
    )
    # (21.5 - 0.5 and 71 - 11.5) against 22 and 60
    assert ttft["mean"]["predicted"] == pytest.approx((21 + 59.5) / 2)
    assert ttft["mean"]["real"] == pytest.approx((22 + 60) / 2)
    # Taken in at 1 and 21.5 ms, as the simulator sees it; at 1 and 12 ms, as the engine did.
    assert queued["mean"]["predicted"] == pytest.approx((20.5 + 49.5) / 2)
    assert queued["mean"]["real"] == pytest.approx((20.5 + 59) / 2)
    assert (tpot["requests"], e2e["requests"]) == (1, 2)
    assert tpot["mean"]["predicted"] == pytest.approx((71 - 21.5) / 2)
    assert e2e["p50"]["predicted"] == pytest.approx((70.5 + 59.5) / 2)
    assert told["makespan_s"]["predicted"] == pytest.approx(0.0705)
    assert told["preemptions"] == {"real": 0, "predicted": 0}
    assert told["latency"]["kind"] == "replay"


def test_the_shape_of_the_json(tmp_path: Path) -> None:
    folder = tmp_path / "sample"
    folder.symlink_to(SAMPLE)
    told = report(folder, "--fit-host", "--budget")
    assert set(told) == {
        *("case", "engine", "latency", "metrics", "per_request_mape_pct", "preemptions"),
        *("makespan_s", "requests_per_s", "output_tokens_per_s", "fitted", "others", "kv_blocks"),
        *("options", "notes", "budget"),
    }
    metrics = {"ttft_ms", "ttft_from_queued_ms", "tpot_ms", "e2e_ms"}
    assert set(told["metrics"]) == set(told["per_request_mape_pct"]) == metrics
    for cells in told["metrics"].values():
        assert set(cells) == {*STATISTICS, "ks", "wasserstein_ms", "requests"}
        for name in STATISTICS:
            assert set(cells[name]) == {"real", "predicted", "error_pct", "low_pct", "high_pct"}
    fitted = told["fitted"]
    assert told["latency"]["host_ns"] == fitted["host_ns"]
    assert fitted["unfitted_host_ns"] == 57_000
    halves = [
        fitted[half]["metrics"]["e2e_ms"]["requests"] for half in ("first_half", "second_half")
    ]
    assert halves == [13, 13]
    # This machine was slower later: its steps are too long for the first half as they are.
    assert fitted["floored"]
    assert fitted["host_ns"] == 0
    assert "Nothing fitted" in validate(folder, "--fit-host").output
    unfitted = report(folder)
    assert fitted["unfitted"]["metrics"] == unfitted["metrics"]
    assert unfitted["fitted"] is None
    slower = report(folder, "--host-ms", 1, "--budget")
    effects = {row["effect"]: row for row in slower["budget"]}
    assert effects["no host time"]["metrics"] == told["metrics"]
    assert effects["no prefix cache"]["metrics"] == slower["metrics"]  # prompts share nothing
    assert "metrics" in effects["no whole-sequence gate"]


def test_what_is_shown(tmp_path: Path) -> None:
    write_step_case(tmp_path / "again")
    write_step_case(tmp_path / "other", engine=STEP_ENGINE | {"max_num_seqs": 3})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "options.json").write_text("{")
    case = write_step_case(tmp_path / "two")
    assert [each.name for each in find_repeats(read_case(case))] == ["again"]
    result = validate(case, "--latency", "replay", "--out", tmp_path / "figures")
    assert result.exit_code == 0, result.output
    said = flat(result.output)
    assert "two vLLM 0.32" in said
    assert "! no vllm_version is recorded: 0.32 is taken" in said
    assert "TTFT, ms 41" in said
    assert "repeat again, % +0.0" in said
    drawn = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert drawn == ["two-cdf.png", "two-errors.png"]
    assert all((tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_markdown(tmp_path: Path) -> None:
    result = validate(write_step_case(tmp_path / "two"), "--latency", "replay", "--markdown")
    head, rule, *rows = result.output.splitlines()
    assert head.startswith("| case | times from | off, % | mean | std | P50 | P90 | P95 | P99 |")
    assert rule.count("---") == head.count("|") - 1
    # 40.25 ms instead of 41
    assert rows[0].startswith("| two | replay | TTFT | -1.8 |")
    budget = validate(tmp_path / "two", "--latency", "replay", "--budget", "--markdown").output
    assert "| no whole-sequence gate | " in budget


def test_launch_time_instead_of_host_time(tmp_path: Path) -> None:
    case = write_kernel_case(tmp_path / "tiny")
    said = "--fit-launch: found times from roofline; allowed: from kernels' tables"
    assert said in flat(validate(case, "--latency", "roofline", "--fit-launch").output)
    both = validate(case, "--latency", "roofline", "--fit-launch", "--fit-host").output
    assert "--fit-launch: found it beside --fit-host; allowed: one of them" in flat(both)


def test_blocks_that_were_recorded_and_blocks_that_are_derived(tmp_path: Path) -> None:
    case = write_kernel_case(tmp_path / "tiny")
    told = report(case, "--latency", "roofline", "--budget")
    blocks = told["kv_blocks"]
    # docs/background/memory-plan.md derives the same 2,581.
    assert (blocks["derived"], blocks["recorded"], blocks["used"]) == (2581, 2588, 2588)
    assert blocks["error_pct"] == pytest.approx(100 * (2581 / 2588 - 1))
    assert list(blocks["uncertain"]) == ["non-torch"]
    assert told["options"]["num_gpu_blocks_override"] == 2588
    fewer = next(row for row in told["budget"] if "fewer" in row["effect"])
    assert fewer["set"] == ["engine.num_gpu_blocks_override=2262"]
    said = flat(validate(case, "--latency", "roofline").output)
    assert "KV blocks: 2,581 derived, 2,588 recorded (-0.3 %); 2,588 are taken" in said
    assert "uncertain terms, in blocks: non-torch 320" in said
    silent = report(
        write_kernel_case(tmp_path / "silent", num_gpu_blocks=None), "--latency", "roofline"
    )
    assert silent["kv_blocks"]["used"] == 2581
    assert silent["kv_blocks"]["recorded"] is None


def test_every_source_of_step_times(tmp_path: Path) -> None:
    case = write_kernel_case(tmp_path / "tiny", model="Llama-3.1-8B", gpu="H200")
    kinds = {}
    llmservingsim(case / "profile")
    latency = set_up(read_case(case), Choice()).deployment.config.latency
    assert latency.capture_sizes == [1, 2, 4, 8, 16, 24]  # type: ignore[union-attr]
    wheel = aiconfigurator(tmp_path / "wheel")
    for kind, words in {
        "profile": (),
        "aiconfigurator": ("--latency", "aiconfigurator", "--tables", wheel),
        "steps": ("--steps-of", SAMPLE),
        "roofline": ("--latency", "roofline"),
    }.items():
        told = report(case, *words)
        assert told["latency"]["kind"] == kind
        kinds[kind] = told["metrics"]["ttft_ms"]["mean"]["predicted"]
    assert len(set(kinds.values())) == 4
    slower = report(case, "--host-ms", 7)
    assert slower["metrics"]["ttft_ms"]["mean"]["predicted"] > kinds["profile"] + 6.9
    assert slower["latency"]["host_ns"] == 7_000_000
    later = report(case, "--set", "latency.front_end_ns=5000000")
    ttft = later["metrics"]["ttft_ms"]["mean"]["predicted"]
    assert ttft == pytest.approx(kinds["profile"] + 5)
    two = validate(case, "--set", "engine.tensor_parallel_size=2")
    assert two.exit_code == 2
    assert "found no profile of tensor_parallel_size 2; allowed: 1" in two.stderr


def test_a_gpu_that_is_not_known_is_needed_for_its_memory_alone(tmp_path: Path) -> None:
    told = report(write_kernel_case(tmp_path / "a", gpu="Abacus"), "--steps-of", SAMPLE)
    assert "Abacus is not a GPU that is known here: nothing is derived from it" in told["notes"]
    assert told["kv_blocks"] is None
    bare = write_kernel_case(tmp_path / "b", gpu="Abacus", num_gpu_blocks=None)
    assert "unknown device 'Abacus'" in validate(bare, "--steps-of", SAMPLE).stderr


def test_options_of_other_engines() -> None:
    told = settle(
        {
            "max_num_seqs": 8,
            "quantization": None,
            "mamba_mode": "big",
            "enforce_eager": True,
            "cudagraph_capture_sizes": [1, 2],
            "pipeline_parallel_size": 2,
            "data_parallel_size": 1,
        },
        version="0.28.1",
        place="x",
    )
    assert told.engine == {
        "max_num_seqs": 8,
        "kv_cache_dtype": "auto",
        "scheduler": {"kind": "vllm", "version": "0.19"},
        "pipeline_parallel_size": 2,
    }
    assert told.capture_sizes == ()
    assert told.notes == (
        "options that are not known here, and left out: mamba_mode=big",
        "vLLM 0.28.1 is scheduled by the rules of 0.19, the nearest older known ones",
    )
    assert choose_rules("0.33.4") == ("0.33", None)
    assert choose_rules("0.40")[0] == "0.33"
    assert choose_rules("0.9.2")[0] == "0.19"
    assert "the oldest known ones" in str(choose_rules("0.9.2")[1])


def test_several_batches_in_flight_are_simulated(tmp_path: Path) -> None:
    case = write_kernel_case(tmp_path / "a", async_scheduling=True)
    told = report(case, "--latency", "roofline", "--budget")
    assert told["options"]["async_scheduling"]
    # So that the last token is foreseen, as it was where lengths were forced.
    assert all(each.max_tokens == each.output_tokens for each in read_case(case).requests)
    apart = next(row for row in told["budget"] if row["effect"] == "one batch at a time")
    first = "ttft_ms"
    assert apart["metrics"][first]["p99"]["predicted"] < told["metrics"][first]["p99"]["predicted"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu": None}, "engine.json: found no gpu; allowed: gpu, model, vllm_version"),
        ({"gpu": "Abacus"}, "unknown device 'Abacus'"),
        ({"model": "a/Parrot-1B"}, "Parrot-1B"),
        ({"vllm_version": "new"}, "vllm_version: found 'new'; allowed: numbers, as in 0.19.0"),
        ({"data_parallel_size": 2}, "engine.json: data_parallel_size: found 2; allowed: 1"),
        ({"max_num_seqs": "many"}, "engine.max_num_seqs: found 'many'; allowed: a whole number"),
        ({"cudagraph_capture_sizes": "1,two"}, "cudagraph_capture_sizes: found 'two'; allowed"),
    ],
)
def test_engines_that_cannot_be_simulated(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    case = write_kernel_case(tmp_path / "case", **changes)
    result = validate(case, "--latency", "roofline", "--json", tmp_path / "r.json")
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("truth_requests.csv", "ttft_ms,", "gone,", "found no column ttft_ms"),
        ("truth_requests.csv", "0.014", "soon", "truth_requests.csv:3: found arrival_s = soon"),
        ("truth_requests.csv", ",10,65", ",,65", "truth_requests.csv:4: found input_tokens"),
        ("truth_requests.csv", "\n2,", "\n1,", "found request 1 twice"),
        ("truth_requests.csv", "\n2,40", "\n2,41", "tiny.jsonl:3: found 40 input tokens of"),
        ("truth_requests.csv", "\n2,", "\n9,", "tiny.jsonl: found no request 9; allowed: all"),
        ("../workloads/tiny.jsonl", "hash_ids", "ids", "tiny.jsonl:1: cannot be used (KeyError"),
        ("../workloads/tiny.jsonl", "{", "(", "tiny.jsonl: cannot be read as JSON lines"),
        ("engine.json", "{", "[", "engine.json: cannot be read as JSON"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    case = write_kernel_case(tmp_path / "case")
    text = (case / file).read_text()
    assert old in text
    (case / file).write_text(text.replace(old, new, 1))
    result = validate(case, "--latency", "roofline")
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_what_a_case_lacks(tmp_path: Path) -> None:
    kernels = write_kernel_case(tmp_path / "kernels")
    steps = write_step_case(tmp_path / "steps")
    (kernels / "empty").mkdir()
    for words, message in (
        ((tmp_path / "nowhere",), "nowhere: found no such folder; allowed: a folder with engine"),
        ((kernels / "empty",), "empty: found neither of them"),
        ((kernels,), "found neither a profile/ of its kernels nor steps.csv; allowed: --latency"),
        ((kernels, "--latency", "profile"), "--latency profile: found no folder profile/"),
        ((kernels, "--latency", "replay"), "--latency replay: found no steps.csv"),
        ((kernels, "--steps-of", tmp_path / "x"), "found no steps.csv; allowed: a case with a"),
        ((kernels, "--latency", "rooflin"), "--latency: found 'rooflin'; did you mean roofline"),
        ((kernels, "--latency", "roofline", "--steps-of", steps), "allowed: with --latency steps"),
        ((kernels, "--latency", "roofline", "--set", "engine.colour=1"), "engine.colour: unknown"),
        ((kernels, "--latency", "roofline", "--set", "seed=1"), "allowed: engine.KEY or latency"),
        ((kernels, "--set", "latency.host_ns=1", "--latency", "roofline"), "allowed: --host-ms"),
        ((kernels, "--latency", "roofline", "--tables", steps), "with --latency aiconfigurator"),
        ((steps,), "steps.csv: found 3 steps; allowed: 50 or more"),
        ((steps, "--latency", "roofline"), "model: missing; needed for latency.kind roofline"),
        (
            (steps, "--latency", "replay", "--set", "engine.max_num_batched_tokens=16"),
            "step 3 is be",
        ),
        ((steps, "--latency", "replay", "--set", "engine.max_model_len=30"), "nothing is answered"),
        ((steps, "--latency", "replay", "--host-ms", 1), "not with --latency replay"),
        ((steps, "--latency", "replay", "--fit-host"), "--fit-host: found it beside --latency re"),
        ((kernels, "--latency", "roofline", "--fit-host"), "found 3 requests; allowed: 4 or more"),
    ):
        result = validate(*words)
        assert result.exit_code == 2, (words, result.output)
        assert message in result.stderr, result.stderr
    (steps / "requests.csv").unlink()
    assert "found no requests.csv" in validate(steps, "--latency", "replay").stderr
    (kernels.parent / "workloads" / "tiny.jsonl").unlink()
    assert any("share nothing" in note for note in read_case(kernels).notes)
    with pytest.raises(CaseError, match="found no engine; allowed: vLLM's options"):
        read_case(write_step_case(tmp_path / "none", engine=None))


def test_prompts_of_a_step_case_share_what_its_trace_says(tmp_path: Path) -> None:
    case = write_step_case(tmp_path / "two")
    rows = [
        {"id": name, "prefix_group": "system", "prefix_tokens": 32} for name in ("first", "second")
    ]
    (case / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_case(case).requests
    assert first.prompt == ((0, 0, 32), (OWN, 0, 8))
    assert second.prompt == ((0, 0, 32), (OWN + 2, 0, 58))
    (case / "trace.jsonl").write_text("../elsewhere/trace.jsonl\n")
    assert read_case(case).requests[0].prompt == ((OWN, 0, 40),)
