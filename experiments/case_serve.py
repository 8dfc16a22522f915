"""A case served by the simulator: what it says of every request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.case import METRICS, Case, CaseError
from sim.latency import LatencyModel
from sim.request import Request

if TYPE_CHECKING:
    import pandas as pd

    from experiments.context import Frames
    from experiments.deployment import Deployment


class Served(NamedTuple):
    """Predictions of one run of a case."""

    predicted: pd.DataFrame
    """By request id: METRICS in ns, `arrival_ns`, `output_tokens`, `preemptions`."""
    notes: tuple[str, ...]
    """Who was not answered, and what the clock does not know."""


def serve(
    case: Case,
    deployment: Deployment,
    latency: LatencyModel,
    *,
    requests: Iterable[Request] | None = None,
) -> Served:
    """All requests of a case (or these, its own at other arrivals), under a clock.

    Times count from the arrival that the case recorded, whatever the arrival in `requests`.
    Raises CaseError where no request can be answered.
    """
    from experiments.build import build_simulation
    from experiments.metrics import read_latencies
    from experiments.simulate import describe_clock
    from experiments.tables import make_frames

    simulation = build_simulation(deployment, latency=latency)
    simulation.serve(case.requests if requests is None else requests)
    frames = make_frames(simulation.records)
    answered = frames["requests"].set_index("id")
    reasons = Counter(frames["refused"]["reason"])
    notes = [f"requests refused, and left out: {n:,} ({why})" for why, n in reasons.items()]
    if answered.empty:
        raise CaseError(f"{case.folder}: nothing is answered: {'; '.join(notes)}")
    predicted: pd.DataFrame = read_latencies(answered)[["ttft", "tpot", "e2e"]].astype("float64")
    arrival_ns = case.real["arrival_ns"].reindex(predicted.index)
    for metric in ("ttft", "e2e"):
        predicted[metric] += answered["arrival_ns"] - arrival_ns
    predicted["ttft_from_queued"] = (
        answered["ttft_ns"]
        - deployment.config.latency.front_end_ns
        - _wait_for_engine(frames, answered)
    )
    predicted["arrival_ns"] = arrival_ns
    predicted["output_tokens"] = answered["output_tokens"]
    predicted["preemptions"] = answered["preemptions"]
    notes += describe_clock(latency, frames, deployment.device)
    columns = [*METRICS, "arrival_ns", "output_tokens", "preemptions"]
    return Served(predicted[columns].reindex(case.real.index).dropna(how="all"), tuple(notes))


def _wait_for_engine(frames: Frames, answered: pd.DataFrame) -> NDArray[np.int64]:
    """Nanoseconds from each arrival until the engine took it in: the end of the step in flight.

    An engine that computes looks for new requests between steps; one that idles at once.
    """
    at = answered["arrival_ns"].to_numpy()
    ends = frames["step_ends"]["end_ns"].to_numpy()
    steps = frames["steps"]
    row = np.searchsorted(steps["start_ns"].to_numpy(), at, side="left") - 1
    busy = (row >= 0) & (steps["end_ns"].to_numpy()[row] > at)
    following = ends[np.minimum(np.searchsorted(ends, at), len(ends) - 1)]
    return np.where(busy, following - at, 0)
