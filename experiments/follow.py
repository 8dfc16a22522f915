"""`python -m experiments.follow CONFIG --request ID`: the story of one request."""

from __future__ import annotations

import difflib
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.errors import ConfigError
from experiments.exits import exits, make_app

if TYPE_CHECKING:
    from experiments.config import Config
    from experiments.engine_config import Engine

_DETAILED_STEPS = 64


def tell(config: Config, *, request: str, detailed_steps: int) -> list[tuple[str, str]]:
    """Simulate until the request has left; its story as lines of (text, style).

    Raises ConfigError for an id that the trace does not have, and whatever a run raises.
    """
    from experiments.build import build_latency, build_simulation
    from experiments.build_trace import build_trace
    from experiments.deployment import resolve
    from experiments.follower import Follower
    from experiments.story import Story
    from sim.observer import Observer
    from sim.record.ttft import PARTS
    from sim.scheduling.face import Scheduler

    deployment = resolve(config)
    latency, trace = build_latency(deployment), build_trace(config)
    check_id(request, [each.id for each in trace])
    kv_cache = deployment.config.engine.kv_cache
    if kv_cache.kind != "paged":
        raise ConfigError(
            f"engine.kv_cache.kind: found {kv_cache.kind}; allowed: paged, since a story is told"
            " along a block table"
        )
    check_one_batch(deployment.config.engine)
    free_order = kv_cache.free_order
    assert free_order is not None
    story = Story()
    followers = []

    def watch(scheduler: Scheduler) -> Observer:
        follower = Follower(
            story,
            request=request,
            scheduler=scheduler,
            free_order=free_order,
            detailed_steps=detailed_steps,
        )
        followers.append(follower)
        return follower

    simulation = build_simulation(deployment, latency=latency, watch=watch)
    # Nobody who arrives after the end of a story is part of it.
    simulation.serve(takewhile(lambda _: not story.complete, trace))
    lines = [(f"{request}: one request of {trace.name}, {latency.source}", "bold")]
    lines += story.written()
    for replica, follower in enumerate(followers):
        if follower.sequence is None:
            continue
        rows = simulation.records.arrays("requests")
        (row,) = (rows["request"] == follower.sequence.index).nonzero()[0]
        spent = {part: int(rows[f"{part}_ns"][row]) for part in PARTS}
        said = " + ".join(f"{part} {ns / 1e6:.3f}" for part, ns in spent.items() if ns)
        lines.append((f"TTFT {rows['ttft_ns'][row] / 1e6:.3f} ms = {said}", "bold"))
        saved_ms = rows["saved_by_prefix_ns"][row] / 1e6
        if saved_ms:
            said = f"its prefix hit, computed alone, would take {saved_ms:.3f} ms"
            lines.append((f"beside the sum: {said}", ""))
        if len(followers) > 1:
            lines.append((f"served by replica {replica} of {len(followers)}", ""))
    return lines


def check_id(request: str, ids: list[str]) -> None:
    """Raise ConfigError where the trace has no such request, and name those that are near."""
    if request in set(ids):
        return
    near = difflib.get_close_matches(request, ids, cutoff=0.5)
    question = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(
        f"--request {request}: {question}the trace has {len(ids):,} requests, {ids[0]} to {ids[-1]}"
    )


def check_one_batch(engine: Engine) -> None:
    """Raise ConfigError where several batches are in flight: blocks are then taken, and tokens
    counted, before there is anything to see."""
    if engine.batches_in_flight > 1:
        raise ConfigError(
            f"engine: found {engine.batches_in_flight} batches in flight; allowed: one, as with"
            " --set engine.async_scheduling=false and engine.pipeline_parallel_size=1"
        )


def follow(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, as in configs/.")],
    request: Annotated[str, typer.Option(metavar="ID", help="Whose story, by the trace's id.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value: engine.block_size=32."),
    ] = None,
    steps: Annotated[
        int, typer.Option(metavar="N", min=0, help="Tell N steps of decoding block by block.")
    ] = _DETAILED_STEPS,
) -> None:
    """Tell what happens to one request, from arrival to freed blocks; writes no results."""
    with exits():
        from rich.console import Console

        from experiments.config import load_config

        story = tell(
            load_config(config, overrides=overrides or ()), request=request, detailed_steps=steps
        )
        screen = Console(highlight=False, soft_wrap=True)
        for text, style in story:
            screen.print(text.rstrip(), style=style, markup=False)


main = make_app(follow)

if __name__ == "__main__":
    main()
