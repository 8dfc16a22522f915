"""Fitting step times: non-negative least squares on what the steps of a log computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibrate.step_log import FEATURES, FitError, StepLog
from calibrate.step_model import Curve, Prices, Seen

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

FEWEST_STEPS = 50
_STEPS_PER_NODE = 12
_ROUNDS = 50
_SETTLED = 1e-9
_FLOOR = 0.01
"""Share of the shortest measured step that every node of the curve costs at least, so that no
step is free."""
_FAR = 1.0
"""Share of its prediction by which a step may be off and still weigh in full."""


@dataclass(frozen=True, slots=True)
class Errors:
    """How far predictions are from measured steps, as shares of the measured."""

    steps: int
    mean: float
    """Of the absolute errors (MAPE)."""
    p50: float
    p90: float
    total: float
    """Predicted over measured sum of durations, minus 1: the bias of the clock."""

    @classmethod
    def of(cls, predicted_ns: Floats, measured_ns: Floats) -> Errors:
        off = np.abs(predicted_ns / measured_ns - 1)
        p50, p90 = np.quantile(off, (0.5, 0.9)).tolist()
        total = float(predicted_ns.sum() / measured_ns.sum() - 1)
        return cls(len(off), float(off.mean()), p50, p90, total)


@dataclass(frozen=True, slots=True)
class Trial:
    """A model that saw one part of the steps, asked about the others."""

    rows: Rows
    """The steps it did not see."""
    predicted_ns: Floats
    errors: Errors
    outside: int
    """How many of them are unlike any it saw: extrapolated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A model of all steps, and what its like made of steps that they had not seen."""

    prices: Prices
    seen: Seen
    host_ns: int
    predicted_ns: Floats
    """Of every step of the log, by the model of all."""
    errors: Errors
    random: Trial
    """Steps drawn at random were held out."""
    last: Trial
    """The last steps were held out: what a drift of the machine costs shows here."""
    residuals: dict[str, float]
    """measured / predicted - 1 of the steps held out at random: p5, p50, p95."""
    slow_steps: int
    """Steps that took more than twice what the model says."""


def fit_steps(log: StepLog, *, holdout: float = 0.3, seed: int = 0) -> Fit:
    """Fit prices to a log, and try them on a share `holdout` of its steps, twice.

    Raises FitError where there are too few steps, or all of one size.
    """
    steps = len(log.duration_ns)
    if steps < FEWEST_STEPS:
        raise FitError(f"{log.name}: found {steps} steps; allowed: {FEWEST_STEPS} or more")
    held_out = min(max(1, round(holdout * steps)), steps - FEWEST_STEPS // 2)
    shuffled = np.random.default_rng(seed).permutation(steps)
    prices = _fit(log, np.arange(steps))
    predicted_ns = _predict(log, prices)
    errors = Errors.of(predicted_ns, log.duration_ns)
    random = _try(log, np.sort(shuffled[:held_out]))
    off = log.duration_ns[random.rows] / random.predicted_ns - 1
    p5, p50, p95 = np.quantile(off, (0.05, 0.5, 0.95)).tolist()
    return Fit(
        prices=prices,
        seen=_look(log),
        host_ns=log.host_ns,
        predicted_ns=predicted_ns,
        errors=errors,
        random=random,
        last=_try(log, np.arange(steps - held_out, steps)),
        residuals={"p5": p5, "p50": p50, "p95": p95},
        slow_steps=int((log.duration_ns > 2 * predicted_ns).sum()),
    )


def contributions(prices: Prices, log: StepLog) -> dict[str, float]:
    """Nanoseconds that each part of the formula adds up to over a log.

    What every step costs is the curve's lowest node; `tokens` is the curve above it.
    """
    tokens, decodes, context, chunks, area = log.features.T
    every_ns = min(prices.curve.ns)
    return {
        "every step": every_ns * len(tokens),
        "tokens": float(prices.curve.at(tokens).sum()) - every_ns * len(tokens),
        "decodes": prices.decode_ns * float(decodes.sum()),
        "decode context": prices.context_token_ns * float(context.sum()),
        "chunks": prices.chunk_ns * float(chunks.sum()),
        "area": prices.pair_ns * float(area.sum()),
    }


def _try(log: StepLog, unseen: Rows) -> Trial:
    seen = np.setdiff1d(np.arange(len(log.duration_ns)), unseen)
    predicted_ns = _predict(log, _fit(log, seen))[unseen]
    low, high = log.features[seen].min(axis=0), log.features[seen].max(axis=0)
    asked = log.features[unseen]
    outside = (asked > high).any(axis=1) | (asked[:, 0] < low[0])
    errors = Errors.of(predicted_ns, log.duration_ns[unseen])
    return Trial(unseen, predicted_ns, errors, int(outside.sum()))


def _predict(log: StepLog, prices: Prices) -> Floats:
    """Engine time of every step of the log."""
    return prices.engine_ns(*log.features.T)


def _fit(log: StepLog, rows: Rows) -> Prices:
    """Prices of these steps of a log."""
    measured_ns, features = log.duration_ns[rows], log.features[rows]
    nodes = _choose_nodes(features[:, 0], log.name)
    columns = np.column_stack([_hats(features[:, 0], nodes), features[:, 1:]])
    floor = np.zeros(columns.shape[1])
    floor[: len(nodes)] = _FLOOR * measured_ns.min()
    prices = solve(columns, measured_ns, floor=floor)
    curve = Curve(tuple(nodes.tolist()), tuple(prices[: len(nodes)].tolist()))
    decode, context, chunk, pair = prices[len(nodes) :].tolist()
    return Prices(
        curve=curve, decode_ns=decode, context_token_ns=context, chunk_ns=chunk, pair_ns=pair
    )


def solve(columns: Floats, measured_ns: Floats, *, floor: Floats) -> Floats:
    """One price for each of the columns (steps, prices), none below its floor: least squares of
    relative errors.

    A step weighs 1 / its predicted duration, found in rounds. (1 / measured would favour
    steps that happened to be fast, and the clock would run fast: by 2 % on the recorded
    runs.) A step that took more than twice its prediction pulls no more than one that took
    just twice (Huber), so that a pause of the machine bends nothing. Raises FitError where
    scipy is missing.
    """
    try:
        from scipy.optimize import nnls
    except ModuleNotFoundError:
        raise FitError("fitting needs scipy: pip install scipy") from None
    rest_ns = measured_ns - columns @ floor
    weights = 1 / measured_ns
    prices = floor
    for _ in range(_ROUNDS):
        weighted = columns * weights[:, None]
        size = np.linalg.norm(weighted, axis=0)
        size[size == 0] = 1
        found, _ = nnls(weighted / size, rest_ns * weights)
        before, prices = prices, floor + found / size
        predicted_ns = columns @ prices
        off = measured_ns / predicted_ns - 1
        weights = np.sqrt(np.minimum(1, _FAR / np.maximum(np.abs(off), _FAR))) / predicted_ns
        if np.allclose(before, prices, rtol=_SETTLED, atol=0):
            break
    return prices


def _choose_nodes(tokens: Floats, name: str) -> Rows:
    """Fewest and most tokens, and between them as many of 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14,
    16, 20 ... (four to an octave) as have steps of their own: a dozen each, shared between
    the two nodes that a step lies between."""
    low, high = int(tokens.min()), int(tokens.max())
    if low == high:
        raise FitError(
            f"{name}: found steps of {low} tokens only, among {len(tokens)} that were to be fitted"
            " on; allowed: steps of different sizes"
        )
    nodes = np.array([low, *(node for node in _ladder(high) if node > low), high])
    sizes, counts = np.unique(tokens, return_counts=True)
    while len(nodes) > 2:
        steps = counts @ _hats(sizes, nodes)
        least = int(steps.argmin())
        if steps[least] >= _STEPS_PER_NODE:
            break
        # The ends stay: there the neighbour goes.
        nodes = np.delete(nodes, min(max(least, 1), len(nodes) - 2))
    return nodes


def _ladder(below: int) -> Iterator[int]:
    """1, 2 ... 8, 10, 12, 14, 16, 20 ..."""
    node = 1
    while node < below:
        yield node
        node += 1 << max(0, node.bit_length() - 3)


def _hats(tokens: Floats, nodes: Rows) -> Floats:
    """(steps, nodes): how much of each node's value a step takes; each row sums to 1."""
    return np.column_stack([np.interp(tokens, nodes, each) for each in np.eye(len(nodes))])


def _look(log: StepLog) -> Seen:
    most = dict(zip(FEATURES, np.ceil(log.features.max(axis=0)).tolist(), strict=True))
    known = {name: int(most[name]) if name in log.known else None for name in FEATURES[1:]}
    return Seen(tokens=(int(log.features[:, 0].min()), int(most["tokens"])), **known)
