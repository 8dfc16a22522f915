"""`pagesim run`: from a config file to a folder with results, and everything on the way."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

import experiments
from experiments.cli import main as pagesim
from experiments.errors import ResultError
from experiments.exits import exits
from experiments.results import Draft
from experiments.tables import TABLES
from sim.record.records import COLUMNS
from tests.shared import SHARED, needs_shared

GOLDEN = SHARED / "vllm-golden" / "s3_prefix_chat"
AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"

CHAT: dict[str, Any] = {
    "latency": {
        "kind": "linear",
        "base_ns": 1_000_000,
        "per_token_ns": 1000,
        "per_context_token_ns": 1,
    },
    "engine": {
        "num_gpu_blocks_override": 1000,
        "max_model_len": 12000,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 512,
    },
    "trace": {"kind": "chat", "requests": 40},
}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are tested elsewhere, and slow."""
    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])


def config_of(folder: Path, values: dict[str, Any] | None = None, **parts: Any) -> Path:
    path = folder / "chat.yaml"
    path.write_text(yaml.safe_dump((values or CHAT) | parts), encoding="utf-8")
    return path


def run(path: Path, *options: str) -> Result:
    out = path.parent / "results"
    return CliRunner().invoke(pagesim, ["run", str(path), "--out", str(out), *options])


def run_quietly(path: Path, *options: str) -> Path:
    result = run(path, "--quiet", *options)
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


def refusal(path: Path, *options: str) -> str:
    """What a user's mistake says; it leaves nothing behind."""
    result = run(path, *options)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.output
    out = path.parent / "results"
    assert not out.exists() or not list(out.iterdir())
    return result.stderr.removeprefix("Error: ").replace(str(path.parent), "DIR")


def test_a_run_leaves_tables_figures_summary_and_config(tmp_path: Path) -> None:
    result = run(config_of(tmp_path))
    assert result.exit_code == 0, result.output
    assert "40 requests arrived, 40 answered" in result.stdout
    assert "trace: sessions cut by the end of the workload" in result.stdout
    assert result.stderr == ""
    (folder,) = (tmp_path / "results").iterdir()
    assert folder.name.startswith("chat-")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml",
        "summary.json",
        "figures",
        *(f"{table}.parquet" for table in TABLES),
    }
    assert len(list((folder / "figures").glob("*.png"))) >= 4


@pytest.mark.usefixtures("undrawn")
def test_every_column_on_disk_has_its_type_and_unit(tmp_path: Path) -> None:
    folder = run_quietly(config_of(tmp_path))
    for table in TABLES:
        schema = pq.read_schema(folder / f"{table}.parquet")
        if table in COLUMNS:
            assert schema.names[-len(COLUMNS[table]) :] == list(COLUMNS[table])
        for field in schema:
            assert field.metadata[b"unit"]
            if field.name.endswith("_ns"):
                assert (str(field.type), field.metadata[b"unit"]) == ("int64", b"ns")
        config = json.loads(schema.metadata[b"pagesim.config"])
        assert config == yaml.safe_load((folder / "config.yaml").read_text())
        assert json.loads(schema.metadata[b"pagesim.versions"])["code"]
        assert schema.metadata[b"pagesim.run"].decode() == folder.name
    limit = pq.read_schema(folder / "steps.parquet").field("limit")
    assert limit.metadata[b"codes"].startswith(b"0 none, 1 seats")


@pytest.mark.usefixtures("undrawn")
def test_load_reads_what_a_run_left(tmp_path: Path) -> None:
    result = experiments.load(run_quietly(config_of(tmp_path)))
    assert len(result.requests) == result.summary["counts"]["finished"] == 40
    assert result.requests["id"][0] == "s00000-t0"
    assert result.config["engine"]["max_num_seqs"] == 8
    assert set(result.frames) == set(TABLES)
    assert (result["requests"]["request"] == result.frames["requests"]["request"]).all()
    with pytest.raises(AttributeError, match="no table 'tokens'; there are requests,"):
        _ = result.tokens
    with pytest.raises(ResultError, match="not the folder of a finished run"):
        experiments.load(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_an_existing_run_is_reused_unless_forced(tmp_path: Path) -> None:
    path = config_of(tmp_path)
    folder = run_quietly(path)
    before = (folder / "requests.parquet").stat()
    again = run(path)
    assert "This run was made before" in again.stdout
    assert (folder / "requests.parquet").stat() == before
    assert run_quietly(path, "--force") == folder
    assert (folder / "requests.parquet").stat() != before
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("lost", ["steps.parquet", "config.yaml", "summary.json"])
def test_a_result_without_all_its_files_is_made_again(tmp_path: Path, lost: str) -> None:
    path = config_of(tmp_path)
    folder = run_quietly(path)
    (folder / lost).unlink()
    with pytest.raises(ResultError, match=f"not the folder of a finished run .*{lost}"):
        experiments.load(folder)
    again = run(path)
    assert again.exit_code == 0, again.output
    assert "This run was made before" not in again.stdout
    assert (folder / lost).is_file()


@pytest.mark.usefixtures("undrawn")
def test_an_overcommitted_device_is_said(tmp_path: Path) -> None:
    engine = {"num_gpu_blocks_override": 58_000}
    path = config_of(tmp_path, model="Llama-3.1-8B", device="H200", engine=engine)
    result = run(path)
    assert "Note: GPU memory is overcommitted: with a KV cache of 113.28 GiB" in result.stdout
    (note,) = experiments.load(run_quietly(path)).summary["run"]["notes"]
    assert note.startswith("GPU memory is overcommitted")
    (tmp_path / "results").rename(tmp_path / "others")
    small = ["model=Llama-3.1-70B", "device=L4", "engine.max_model_len=8192"]
    options = [part for each in small for part in ("--set", each)]
    assert refusal(path, *options).startswith("Llama-3.1-70B and its KV cache exceed the 22.03")


@pytest.mark.usefixtures("undrawn")
def test_the_resolved_config_is_the_same_run(tmp_path: Path) -> None:
    path = config_of(tmp_path)
    folder = run_quietly(path)
    assert (
        "This run was made before"
        in run(folder / "config.yaml", "--out", str(folder.parent)).output
    )
    others = {
        run_quietly(path, "--set", "engine.max_num_seqs=4"),
        run_quietly(path, "--set", "seed=1"),
        run_quietly(path, "--set", "name=other"),
    }
    assert len(others | {folder}) == 4


@pytest.mark.usefixtures("undrawn")
def test_a_changed_trace_or_recording_is_another_run(tmp_path: Path) -> None:
    trace, recording = tmp_path / "trace.csv", tmp_path / "steps.csv"
    path = config_of(
        tmp_path,
        trace={"kind": "auto", "path": str(trace)},
        latency={"kind": "replay", "path": str(recording)},
    )
    runs = set()
    for tokens, duration_ns in ((5, 1000), (6, 1000), (6, 1001)):
        trace.write_text(f"{AZURE_HEADER}2023-11-16 18:15:46.68,{tokens},2\n")
        recording.write_text(f"step,duration_ns\n0,{duration_ns}\n1,2000\n")
        runs.add(folder := run_quietly(path))
        finish_ns = experiments.load(folder).requests["finish_ns"]
        assert list(finish_ns) == [duration_ns + 2000]
    assert len(runs) == 3


@pytest.mark.usefixtures("undrawn")
def test_prompts_that_do_not_fit_are_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = [(100, 5), (12000, 5), (0, 5), (30, 5), (11999, 5)]
    stamp = "2023-11-16 18:15:46.68"
    trace.write_text(AZURE_HEADER + "".join(f"{stamp},{p},{a}\n" for p, a in rows))
    path = config_of(tmp_path, trace={"kind": "azure", "path": str(trace)})
    result = experiments.load(run_quietly(path))
    counts = result.summary["counts"]
    assert (counts["arrived"], counts["finished"], counts["rejected"]) == (4, 3, 1)
    assert counts["clipped_answers"] == 1
    assert counts["trace_notes"] == {"requests with zero prompt tokens dropped": 1}
    assert list(result.refused["prompt_tokens"]) == [12000]
    assert "within max_model_len 12000" in result.refused["reason"][0]
    (note,) = result.summary["run"]["notes"]
    assert note == f"arrivals count from the first request, at {stamp}"


@pytest.mark.usefixtures("undrawn")
def test_prompts_longer_than_the_cache_are_rejected(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(f"{AZURE_HEADER}2023-11-16 18:15:46,500,5\n2023-11-16 18:15:47,50,5\n")
    engine = CHAT["engine"] | {"num_gpu_blocks_override": 20, "max_model_len": None}
    path = config_of(
        tmp_path,
        trace={"kind": "azure", "path": str(trace)},
        engine=engine,
        model="Llama-3.1-8B",
    )
    summary = experiments.load(run_quietly(path)).summary
    assert summary["counts"]["rejected"] == summary["counts"]["finished"] == 1
    assert summary["run"]["notes"][0].startswith("max_model_len is 304: the model allows 131072")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "DIR/trace.csv: found no such file"),
        ("TIME,A,B\n", "DIR/trace.csv:1: found the header 'TIME,A,B'; allowed: the header"),
        (
            f"{AZURE_HEADER}2023-11-16 18:15:46,-5,1\n",
            ":2: found ContextTokens = '-5'",
        ),
        (
            f"{AZURE_HEADER}2023-11-16 18:15:46,5,x\n",
            "found GeneratedTokens = 'x'; allowed:",
        ),
        (AZURE_HEADER, "DIR/trace.csv: found no requests"),
    ],
)
def test_a_broken_trace_is_one_message(tmp_path: Path, content: str | None, message: str) -> None:
    trace = tmp_path / "trace.csv"
    if content is not None:
        trace.write_text(content)
    path = config_of(tmp_path, trace={"kind": "azure", "path": str(trace)})
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "engine.max_num_seq=3"], "did you mean max_num_seqs"),
        (["--set", "model=Llama-3.1-9B"], "unknown model 'Llama-3.1-9B'"),
        (["--set", "device=H20O"], "did you mean H200"),
        (["--set", "engine.max_model_len=99999"], "allowed: up to 15984"),
        (["--set", "engine.num_gpu_blocks_override=0"], "engine.num_gpu_blocks_override: found 0"),
        (["--set", "engine.num_gpu_blocks_override=1"], "allowed: greater than or equal to 2"),
        (["--set", "latency={kind: roofline}"], "model: missing; needed for latency.kind roofline"),
        (["--set", "latency={kind: replay, path: no.csv}"], "latency.path: no.csv: no such file"),
    ],
)
def test_a_wrong_option_is_one_message(tmp_path: Path, options: list[str], message: str) -> None:
    assert message in refusal(config_of(tmp_path), *options)


def test_time_beyond_64_bits_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("traces.native.ARRIVALS", range(2**63))
    monkeypatch.setattr("traces.filetrace.ARRIVALS", range(2**63))
    trace = tmp_path / "trace.jsonl"
    fields = {"arrival_ns": 2**63 - 1, "prompt": [[0, 0, 9]], "output_tokens": 3}
    trace.write_text(json.dumps({"request_id": "late", "out_stream": 1} | fields))
    path = config_of(tmp_path, trace={"kind": "native", "path": str(trace)})
    assert refusal(path).startswith("found a simulated time beyond 2**63 ns (292 years); allowed:")


def test_a_missing_config_is_one_message(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.yaml") == "DIR/no.yaml: no such config file\n"


def test_an_unwritable_folder_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refusal(config_of(tmp_path), "--out", str(tmp_path / "file" / "results"))
    assert message == "DIR/file/results: cannot be written (Not a directory)\n"


def test_a_full_standard_output_is_one_message() -> None:
    """As of `pagesim run ... > /mnt/full/log`. Other errors of the system stay bugs."""
    with pytest.raises(typer.Exit) as ended, exits():
        raise OSError(errno.ENOSPC, "")
    assert ended.value.exit_code == 2
    with pytest.raises(PermissionError), exits():
        raise PermissionError(errno.EACCES, "")


@pytest.mark.parametrize("largest_bytes", [1_000, 30_000], ids=["a table", "a figure"])
def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path, largest_bytes: int) -> None:
    """Files that may not grow beyond a size fail as they do on a full disk, wherever they are."""
    path = config_of(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes, hard))
    try:
        message = refusal(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message.startswith("DIR/results/chat-")
    assert message.endswith(": cannot be written (File too large)\n")
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "time\n1\n",
            "steps.csv:1: found the columns ['time']; allowed: duration_ns among",
        ),
        ("duration_ns\n1.5\n", "DIR/steps.csv:2: found duration_ns = '1.5'"),
        (f"duration_ns\n{10**12 + 1}\n", "of nanoseconds from 1 to 1,000,000,000,000"),
        (f"duration_ns\n{'9' * 5000}\n", "DIR/steps.csv:2: found duration_ns = '9999"),
        ("duration_ns\n", "DIR/steps.csv: found no rows"),
        ("duration_ns\n5\n", "step 1 is beyond the 1 recorded steps; allowed: a recording"),
    ],
)
def test_a_wrong_recording_is_one_message(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "steps.csv").write_text(text)
    path = config_of(tmp_path, latency={"kind": "replay", "path": str(tmp_path / "steps.csv")})
    assert message in refusal(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    trace = CHAT["trace"] | {"requests": 1_000_000}
    out = tmp_path / "results"
    program = (
        "import signal; from experiments.run import main;"
        # A test run in the background has it ignored.
        " signal.signal(signal.SIGINT, signal.default_int_handler); main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, config_of(tmp_path, trace=trace), "--out", out],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    deadline = time.monotonic() + 30
    while not (out.exists() and list(out.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "Stopped; nothing was written.\n")
    assert list(out.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with Draft(tmp_path, run_id="chat-1") as draft:
        own = draft.path.name
        left = tmp_path / own.replace(str(os.getpid()), str(dead.pid))
    left.mkdir()
    (left / "requests.parquet").touch()
    alive = tmp_path / own.replace(str(os.getpid()), str(os.getppid()))
    alive.mkdir()
    with Draft(tmp_path, run_id="chat-1"):
        assert {path.name for path in tmp_path.iterdir()} == {own, alive.name}


def test_another_process_may_publish_the_same_run_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder appears between making room for the name and taking it."""
    rename, final = Path.rename, tmp_path / "chat-1"

    def race(path: Path, target: Path) -> Path:
        if target == final and not final.exists():
            monkeypatch.setattr(Path, "rename", rename)
            final.mkdir()
            (final / "theirs").touch()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", race)
    with Draft(tmp_path, run_id="chat-1") as draft:
        (draft.path / "ours").touch()
        draft.publish()
    assert [path.name for path in tmp_path.rglob("*")] == ["chat-1", "ours"]


def test_an_earlier_result_survives_a_name_that_cannot_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, earlier = Path.rename, tmp_path / "chat-1"
    earlier.mkdir()
    (earlier / "summary.json").touch()

    def refuse(path: Path, target: Path) -> Path:
        if path == draft.path:
            raise PermissionError(errno.EACCES, "")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with Draft(tmp_path, run_id="chat-1") as draft, pytest.raises(ResultError, match="cannot be"):
        draft.publish()
    assert [path.name for path in tmp_path.rglob("*")] == ["chat-1", "summary.json"]


def test_nothing_slow_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    program = f"""
import sys, types
slow = lambda: {{"torch", "matplotlib", "seaborn"}} & set(sys.modules)
figures = types.ModuleType("experiments.figures")
figures.draw = lambda *_: print("before drawing:", slow())
sys.modules["experiments.figures"] = figures
from experiments.cli import main
print("at start:", slow() | {{"numpy", "pandas", "pyarrow", "pydantic"}} & set(sys.modules))
main(["run", {str(config_of(tmp_path))!r}, "--out", {str(tmp_path / "results")!r}, "--quiet"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.splitlines()[:2] == ["at start: set()", "before drawing: set()"]


@needs_shared
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("loop", ["plain", "fast"])
def test_a_recorded_vllm_run_comes_out_to_the_nanosecond(tmp_path: Path, loop: str) -> None:
    options = json.loads((GOLDEN / "options.json").read_text())
    engine, clock = options["engine"], options["latency"]
    engine["num_gpu_blocks_override"] = engine.pop("num_gpu_blocks")
    engine["scheduling_policy"] = engine.pop("policy")
    clock["per_context_token_ns"] = clock.pop("per_ctx_token_ns")
    path = config_of(
        tmp_path,
        {
            "engine": engine | {"loop": loop},
            "latency": {"kind": "linear", **clock},
            "trace": {"kind": "native", "path": str(GOLDEN / "trace.jsonl")},
        },
    )
    requests = experiments.load(run_quietly(path)).requests.set_index("id")
    recorded = [json.loads(line) for line in (GOLDEN / "requests.jsonl").read_text().splitlines()]
    assert len(requests) == len(recorded) == 454
    for row in recorded:
        ours = requests.loc[row["request_id"]]
        for column in ("arrival_ns", "admit_ns", "first_token_ns", "finish_ns", "preemptions"):
            assert ours[column] == row[column], (row["request_id"], column)
        assert ours["hit_tokens"] == row["cached_tokens_first"]
