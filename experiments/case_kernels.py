"""Cases with a profile of kernels: engine.json, truth_requests.csv, and maybe profile/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.case import Case, CaseError, read_lines, read_object
from experiments.case_engine import settle
from experiments.case_events import read_events
from experiments.case_requests import Times, join, read_times
from sim.request import Run

if TYPE_CHECKING:
    import pandas as pd

THEM = "LLMServingSim"
_TRUTH = "truth_requests.csv"
_EVENTS = "truth_events.csv"
_TIMES = Times(
    id="request_id",
    prompt_tokens="input_tokens",
    output_tokens="output_tokens",
    arrival_s="arrival_s",
    ttft="ttft_ms",
    ttft_from_queued="ttft_from_queued_ms",
    tpot="tpot_ms",
    e2e="e2e_ms",
    ns=1e6,
)


def read_kernel_case(folder: Path) -> Case:
    """Contents of prompts are the workload's, where engine.json names one that is there."""
    path = folder / "engine.json"
    about = read_object(path)
    missing = [name for name in ("gpu", "model", "vllm_version") if not about.get(name)]
    if missing:
        raise CaseError(f"{path}: found no {', '.join(missing)}; allowed: gpu, model, vllm_version")
    version = str(about["vllm_version"])
    options = settle(about, version=version, place=str(path))
    real = read_times(folder / _TRUTH, _TIMES)
    prompts, said = _read_prompts(folder, about.get("workload"), real)
    requests, shift_ns = join(real, prompts)
    if shift_ns:
        said.append(f"arrivals count from the first request, at {shift_ns / 1e9:.6f} s")
    name, profile, steps = folder.resolve().name, folder / "profile", folder / "steps.csv"
    seen = folder / _EVENTS
    return Case(
        name=name,
        folder=folder,
        made_by=f"vLLM {version} on {about['gpu']}",
        values={
            "name": name,
            "model": str(about["model"]).rpartition("/")[2],
            "device": str(about["gpu"]),
            "engine": options.engine,
            "trace": {"kind": "auto", "path": str(folder / _TRUTH)},
        },
        requests=requests,
        real=real,
        capture_sizes=options.capture_sizes,
        profile=profile if profile.is_dir() else None,
        steps=steps if steps.is_file() else None,
        events=read_events(seen, real.index, shift_ns=shift_ns) if seen.is_file() else (),
        workload=about.get("workload"),
        num_gpu_blocks=about.get("num_gpu_blocks"),
        notes=(*options.notes, *said),
    )


def read_theirs(case: Case) -> pd.DataFrame | None:
    """What LLMServingSim said of the same requests; None where nothing was kept.

    It knows no queueing but from arrival: both TTFTs are that one.
    """
    path = case.folder / "theirs_sim_requests.csv"
    if not path.is_file():
        return None
    theirs = read_times(path, _TIMES._replace(ttft_from_queued="ttft_ms"))
    return theirs.reindex(case.real.index)


def _read_prompts(
    folder: Path, workload: object, real: pd.DataFrame
) -> tuple[dict[str, tuple[Run, ...]], list[str]]:
    """By request id: the whole blocks of its prompt, called by their chain."""
    path = folder.resolve().parent / str(workload)
    if workload is None or not path.is_file():
        said = "no workload is named" if workload is None else f"{path} is not there"
        return {}, [f"{said}: prompts are taken to share nothing"]
    prompts = {}
    for number, row in read_lines(path):
        try:
            name, tokens, size = str(row["request_id"]), row["input_tokens"], row["block_size"]
            prompts[name] = tuple((block, 0, size) for block in row["hash_ids"][: tokens // size])
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise CaseError(
                f"{path}:{number}: cannot be used ({error!r}); allowed: request_id, input_tokens,"
                " block_size and hash_ids"
            ) from None
        if name in real.index and real["prompt_tokens"][name] != tokens:
            raise CaseError(
                f"{path}:{number}: found {tokens} input tokens of request {name}; allowed:"
                f" {real['prompt_tokens'][name]}, as in {_TRUTH}"
            )
    lacking = [name for name in real.index if name not in prompts]
    if lacking:
        raise CaseError(f"{path}: found no request {lacking[0]}; allowed: all those of {_TRUTH}")
    return prompts, []
