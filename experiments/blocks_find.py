"""Finds the moment and the sequence that a user wants to look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from experiments.blocks_snapshot import Holder, Snapshot
from experiments.blocks_watch import Theatre
from experiments.blocks_words import say_step
from experiments.errors import ConfigError
from experiments.progress import ProgressBar
from experiments.words import say_source
from sim.observer import Observer


def find_snapshot(
    theatre: Theatre, *, at_ns: int | None, step: int | None, request: str | None, errors: Console
) -> Snapshot:
    """The memory at a time, in a step, or else in the first step in which most blocks are
    held: by the request, where one is named. Raises ConfigError."""
    if at_ns is None and step is None:
        with show_progress(theatre, errors) as beside:
            step = theatre.count(request=request, beside=beside).fullest
        if step is None:
            if request is not None:
                raise ConfigError(
                    f"--request {request}: it never holds a block of replica {theatre.replica}:"
                    " it is turned away, or served by another (--replica)"
                )
            at_ns = 0
    seen: list[Snapshot] = []
    with show_progress(theatre, errors) as beside:
        times = () if at_ns is None else (at_ns,)
        theatre.watch(seen.append, times=times, step=step, beside=beside)
    return seen[0]


def choose(snapshot: Snapshot, request: str | None) -> Holder | None:
    """Whose block table to show: the request's, or that of the sequence that has been running
    for longest; None where nobody runs. Raises ConfigError where the request does not."""
    if request is None:
        return snapshot.holders[0] if snapshot.holders else None
    holder = snapshot.holder(request)
    if holder is None:
        running = [each.id for each in snapshot.holders]
        others = f"; those that do: {' '.join(running)}" if running else ""
        raise ConfigError(
            f"--request {request}: it holds no blocks {say_step(snapshot)}{others}."
            " `follow` tells when it does; without --at and --step its largest table is shown"
        )
    return holder


def say_scene(theatre: Theatre) -> str:
    """What was run, and where its times come from."""
    config, latency = theatre.deployment.config, theatre.latency
    names = (config.name, config.model, config.device, theatre.trace.name)
    said = ", ".join(str(name) for name in names if name)
    if config.cluster.replicas > 1:
        said += f", replica {theatre.replica} of {config.cluster.replicas}"
    source = say_source({"latency": latency.source, "modelled": latency.modelled})
    return f"{said}; latency {source}"


@contextmanager
def show_progress(theatre: Theatre, errors: Console) -> Iterator[list[Observer]]:
    """A bar that observes, where there is a terminal to show it on."""
    if not errors.is_terminal:
        yield []
        return
    bar = ProgressBar(errors, requests=len(theatre.ids), last_arrival_ns=theatre.last_arrival_ns)
    with bar:
        yield [bar]
