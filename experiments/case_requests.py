"""The requests of a case: what came, and how long the engine took for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.case import METRICS, CaseError
from sim.request import Request, Run

if TYPE_CHECKING:
    import pandas as pd

_OWN = 1 << 40
"""Streams from here on are of one request alone."""


class Times(NamedTuple):
    """What a file of requests calls its columns; None where it has no such column."""

    id: str
    prompt_tokens: str
    output_tokens: str
    arrival_s: str
    ttft: str
    ttft_from_queued: str | None
    tpot: str
    e2e: str
    ns: float
    """In the unit of the four metrics."""


def read_times(path: Path, columns: Times) -> pd.DataFrame:
    """By request id, in the order of arrival: METRICS in ns, `arrival_ns`, token counts, and
    `preemptions` where the file has them.

    An answer of one token has no TPOT. Raises TableError with the line, and CaseError, for a
    file that lacks a column or holds no such numbers.
    """
    import numpy as np
    import pandas as pd

    from calibrate.importers.profile_file import find, need, read_csv

    find(path.parent, path.name)
    whole = (columns.prompt_tokens, columns.output_tokens)
    frame = read_csv(path, (columns.arrival_s, columns.ttft, columns.e2e), whole=whole)
    need(frame, path, (columns.id, columns.tpot))
    read = pd.DataFrame({"prompt_tokens": frame[whole[0]], "output_tokens": frame[whole[1]]})
    read["arrival_ns"] = np.rint(frame[columns.arrival_s] * 1e9).astype("int64")
    for metric in METRICS:
        column = getattr(columns, metric)
        there = column is not None and column in frame.columns
        read[metric] = pd.to_numeric(frame[column], errors="coerce") if there else float("nan")
        read[metric] = read[metric].astype("float64") * columns.ns
    several = read["output_tokens"] > 1
    read["tpot"] = read["tpot"].where(several)
    wrong = ((read["prompt_tokens"] < 1) | (read["output_tokens"] < 1)) | (
        (read["tpot"].isna() & several) | (read[["ttft", "e2e"]] <= 0).any(axis=1)
    )
    if wrong.any():
        at = int(wrong.to_numpy().argmax())
        named = (*whole, columns.ttft, columns.tpot, columns.e2e)
        found = ", ".join(f"{name} = {frame[name].iloc[at]}" for name in named)
        raise CaseError(
            f"{path}:{at + 2}: found {found}; allowed: one or more tokens of prompt and answer,"
            f" {columns.ttft} and {columns.e2e} above 0, {columns.tpot} where the answer has"
            " several tokens"
        )
    if "preemptions" in frame.columns:
        read["preemptions"] = read_csv(path, (), whole=("preemptions",))["preemptions"]
    read.index = pd.Index(frame[columns.id].astype(str), name="id")
    if not read.index.is_unique:
        twice = read.index[read.index.duplicated()][0]
        raise CaseError(f"{path}: found request {twice} twice; allowed: ids of one request each")
    return read.sort_values("arrival_ns", kind="stable")


def join(
    real: pd.DataFrame, prompts: Mapping[str, tuple[Run, ...]]
) -> tuple[tuple[Request, ...], int]:
    """Requests in the order of `real`, and the nanoseconds by which arrivals before 0 moved all.

    `prompts` says what the prompts begin with; the rest is each request's own. `real` is
    shifted with them.
    """
    shift_ns = min(0, int(real["arrival_ns"].iloc[0]))
    real["arrival_ns"] -= shift_ns
    requests = []
    rows = zip(
        *(real.index, real["arrival_ns"], real["prompt_tokens"], real["output_tokens"]),
        strict=True,
    )
    for index, (name, arrival_ns, tokens, answer) in enumerate(rows):
        shared = prompts.get(name, ())
        left = int(tokens) - sum(run[2] for run in shared)
        own = ((_OWN + 2 * index, 0, left),) if left else ()
        requests.append(
            Request(
                name,
                int(arrival_ns),
                (*shared, *own),
                int(answer),
                _OWN + 2 * index + 1,
                int(answer),
            )
        )
    return tuple(requests), shift_ns
