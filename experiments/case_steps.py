"""Cases with a step log: options.json, requests.csv and steps.csv, as a small recorder writes them
(docs/guides/compare-with-real-vllm.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.case import Case, CaseError, read_lines, read_object
from experiments.case_engine import settle
from experiments.case_requests import Times, join, read_times
from sim.request import Run

if TYPE_CHECKING:
    import pandas as pd

_TIMES = Times(
    id="id",
    prompt_tokens="prompt_tokens",
    output_tokens="output_tokens",
    arrival_s="arrival_s",
    ttft="ttft_s",
    ttft_from_queued=None,
    tpot="tpot_s",
    e2e="e2e_s",
    ns=1e9,
)
_VERSION = "0.32"


def read_step_case(folder: Path) -> Case:
    """Prompts share what trace.jsonl says; nothing where it lists no requests."""
    path = folder / "options.json"
    about = read_object(path)
    if not isinstance(about.get("engine"), dict):
        raise CaseError(f"{path}: found no engine; allowed: vLLM's options by name")
    notes = []
    version = about.get("vllm_version")
    if version is None:
        version = _VERSION
        notes.append(f"no vllm_version is recorded: {_VERSION} is taken")
    options = settle(about["engine"], version=str(version), place=f"{path}: engine")
    file = folder / "requests.csv"
    real = read_times(file, _TIMES)
    real["ttft_from_queued"] = _count_from_queued(file, real)
    prompts = _read_prompts(folder / "trace.jsonl", real)
    if not prompts:
        notes.append("contents of prompts are not recorded: they are taken to share nothing")
    requests, shift_ns = join(real, prompts)
    if shift_ns:
        notes.append(f"arrivals count from the first request, at {shift_ns / 1e9:.6f} s")
    steps, name = folder / "steps.csv", folder.resolve().name
    return Case(
        name=name,
        folder=folder,
        made_by=f"vLLM {version}" + (f" on {about['gpu']}" if about.get("gpu") else ""),
        values={
            "name": name,
            "model": about.get("model"),
            "device": about.get("gpu"),
            "engine": options.engine,
            "trace": {"kind": "auto", "path": str(file)},
        },
        requests=requests,
        real=real,
        capture_sizes=options.capture_sizes,
        steps=steps if steps.is_file() else None,
        workload=about.get("trace"),
        notes=(*options.notes, *notes),
    )


def _count_from_queued(path: Path, real: pd.DataFrame) -> pd.Series | float:
    """Nanoseconds between the engine's own two stamps; NaN where it left none."""
    from calibrate.importers.profile_file import read_csv

    stamps = ("engine_queued_s", "engine_first_token_s")
    with path.open(encoding="utf-8") as lines:
        header = lines.readline().strip().split(",")
    if not set(stamps) <= set(header):
        return float("nan")
    frame = read_csv(path, stamps)
    waited = (frame[stamps[1]] - frame[stamps[0]]) * 1e9
    by_id: pd.Series = waited.set_axis(frame[_TIMES.id].astype(str)).reindex(real.index)
    return by_id


def _read_prompts(path: Path, real: pd.DataFrame) -> dict[str, tuple[Run, ...]]:
    """By request id: the prefix of its group, where it has one. A file that holds the path of
    another instead of requests is taken for none."""
    if not path.is_file() or not path.read_bytes().lstrip().startswith(b"{"):
        return {}
    groups: dict[str, int] = {}
    prompts: dict[str, tuple[Run, ...]] = {}
    for number, row in read_lines(path):
        name, group, tokens = str(row.get("id")), row.get("prefix_group"), row.get("prefix_tokens")
        if name in real.index:
            stream = groups.setdefault(str(group), len(groups))
            prompts[name] = ()
            if group is not None and isinstance(tokens, int) and tokens > 0:
                if tokens > real["prompt_tokens"][name]:
                    raise CaseError(f"{path}:{number}: found a prefix longer than the prompt")
                prompts[name] = ((stream, 0, tokens),)
    return prompts
