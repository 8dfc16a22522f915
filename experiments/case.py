"""A real engine's run, to hold predictions against: its options, its requests, what it took."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import ConfigError
from sim.request import Request

if TYPE_CHECKING:
    import pandas as pd

    from experiments.case_events import Event

METRICS = ("ttft", "ttft_from_queued", "tpot", "e2e")
"""From arrival to the first token, from when the engine took the request in, per further token,
and from arrival to the last token."""


class CaseError(ConfigError):
    """A folder that is no recorded case, or lacks what a prediction needs; says which and what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run of one engine."""

    name: str
    folder: Path
    made_by: str
    """Engine and version, as recorded."""
    values: Mapping[str, Any]
    """What a config says of it, `latency` aside."""
    requests: tuple[Request, ...]
    """By arrival, which is when the client sent them; the first comes at 0 or later."""
    real: pd.DataFrame
    """By request id, in the order of `requests`: METRICS in ns (NaN where there is none),
    `arrival_ns`, `output_tokens`, and `preemptions` where they were recorded."""
    capture_sizes: tuple[int, ...] = ()
    """Token counts of its CUDA graphs."""
    profile: Path | None = None
    """A folder of LLMServingSim's layer profiles."""
    steps: Path | None = None
    """A row for each step."""
    events: tuple[Event, ...] = ()
    """When requests were first scheduled, and got their first and last tokens."""
    workload: str | None = None
    """Runs of one workload under one set of options repeat each other."""
    num_gpu_blocks: int | None = None
    """As the engine settled it; None where that was not recorded."""
    notes: tuple[str, ...] = ()
    """What was recorded and is not simulated, and what was not recorded."""


def read_case(folder: Path) -> Case:
    """Read a case of either form: engine.json with kernels' profile, or options.json with steps.

    Raises CaseError, TableError and ConfigError, which say the file and what is wrong with it.
    """
    from experiments.case_kernels import read_kernel_case
    from experiments.case_steps import read_step_case

    if (folder / "engine.json").is_file():
        return read_kernel_case(folder)
    if (folder / "options.json").is_file():
        return read_step_case(folder)
    found = "no such folder" if not folder.is_dir() else "neither of them"
    raise CaseError(f"{folder}: found {found}; allowed: a folder with engine.json or options.json")


def find_repeats(case: Case) -> Iterator[Case]:
    """Other runs of the same workload by the same engine, in folders beside it."""
    if case.workload is None:
        return
    for folder in sorted(case.folder.resolve().parent.iterdir()):
        if folder == case.folder.resolve():
            continue
        try:
            other = read_case(folder)
        except ValueError:  # somebody else's folder: only those that are asked for must be whole
            continue
        if _identify(other) == _identify(case):
            yield other


def _identify(case: Case) -> tuple[Any, ...]:
    of_engine = (case.values[part] for part in ("model", "device", "engine"))
    return (case.workload, case.made_by, *of_engine)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CaseError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CaseError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(values, dict):
        raise CaseError(f"{path}: found no JSON object; allowed: options by name")
    return values


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file, one a line, with the line's number. Raises CaseError."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise CaseError(f"{path}:{number}: found no JSON object")
                yield number, value
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CaseError(f"{path}: cannot be read as JSON lines ({error})") from None
