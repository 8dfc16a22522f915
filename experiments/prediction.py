"""A recorded run, predicted: served again by the simulator under another clock.

`experiments.comparison` asks whether decisions are the same under the recorded step times;
here steps take what a latency model says, and the times of the requests are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.build import build_simulation
from experiments.deployment import resolve
from experiments.distribution import NS_PER_MS
from experiments.errors import ConfigError
from experiments.metrics import read_latencies
from experiments.recorded import RecordingError, read_rows, read_run, to_ns
from experiments.tables import make_frames
from sim.latency import LatencyModel

MEASURED = {"ttft": "ttft_s", "tpot": "tpot_s", "e2e": "e2e_s"}
"""Columns of requests.csv: the client's times."""
_ARRIVAL = "arrival_s"
_NS_PER_S = 1e9


class Compared(NamedTuple):
    """One number of a run, of all its requests."""

    metric: str
    statistic: str
    predicted_ms: float
    measured_ms: float


def predict_run(folder: Path, latency: LatencyModel) -> list[Compared]:
    """Serve the requests of a recorded run at the times its clients sent them.

    Mean, P50 and P99 of each of `MEASURED`; the engine's options are the recorded ones.
    Raises RecordingError for a folder that is no recorded run with a step log, or whose
    requests lack a column.
    """
    try:
        run, rows = read_run(folder), read_rows(folder / "requests.csv")
        arrivals = {row["id"]: to_ns(row[_ARRIVAL]) for row in rows}
        measured = _read_measured(rows)
    except ConfigError:
        raise
    except (OSError, KeyError, ValueError) as error:
        columns = ", ".join((_ARRIVAL, *MEASURED.values()))
        found = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise RecordingError(
            f"{folder}: cannot be predicted: found {found}; allowed: a step log with"
            f" requests.csv, which has {columns} in seconds"
        ) from None
    requests = [replace(request, arrival_ns=arrivals[request.id]) for request in run.requests]
    simulation = build_simulation(resolve(run.config), latency=latency)
    simulation.serve(sorted(requests, key=lambda request: request.arrival_ns))
    answered = make_frames(simulation.records)["requests"]
    predicted = read_latencies(answered).set_index(answered["id"])[list(MEASURED)]
    # Of the same requests: an answer of one token has no time per further token.
    measured = (measured * _NS_PER_S).where(predicted.reindex(measured.index).notna())
    return list(_compare(predicted, measured))


def _read_measured(rows: list[dict[str, str]]) -> pd.DataFrame:
    """The metrics of each request, in seconds; NaN where there is none."""
    return pd.DataFrame(
        {
            metric: [float(row[column] or "nan") for row in rows]
            for metric, column in MEASURED.items()
        },
        index=[row["id"] for row in rows],
    )


def _compare(predicted: pd.DataFrame, measured: pd.DataFrame) -> Iterator[Compared]:
    for metric in MEASURED:
        ours, theirs = (frame[metric].dropna() / NS_PER_MS for frame in (predicted, measured))
        yield Compared(metric, "mean", float(ours.mean()), float(theirs.mean()))
        for percentile in (50, 99):
            pair = (float(np.percentile(each, percentile)) for each in (ours, theirs))
            yield Compared(metric, f"P{percentile}", *pair)
