"""`python -m experiments.serve_kernels CONFIG --out FILE.jsonl`: a trace on real kernels, kept.

For machines that lack most of pagesim's dependencies: it needs torch, numpy, simpy, pydantic and
PyYAML (and triton on CUDA). `python -m experiments.compare_served` holds the file against tables.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.build import build_latency, build_simulation
from experiments.build_executor import explain_kernels
from experiments.build_trace import build_trace
from experiments.config import Config, parse_config, read_source
from experiments.deployment import resolve
from experiments.errors import ConfigError
from experiments.executor_config import RealKernels
from experiments.served_log import StepLines, Writer, read_served
from experiments.source import Source

if TYPE_CHECKING:
    from calibrate.runner import Runner

_MOST_CHUNKS = 8
"""Beside the decodes of a random step."""
_LEAST_ROOM = 64
"""Tokens."""


def main(arguments: list[str] | None = None) -> int:
    """0; 2 for what a user can mend, 130 where it is stopped."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.out.exists() and read_served(asked.out).ended:
            _say(f"{asked.out}: there already, and whole")
            return 0
        source = read_source(asked.config, overrides=asked.set)
        if asked.pilot is not None:
            _set_load(source, asked.pilot, share=asked.share, seconds=asked.seconds)
        serve(source, asked.out, random_steps=asked.random_steps)
    except KeyboardInterrupt:
        _say(f"Stopped; {asked.out} keeps the steps until then.")
        return 130
    except ValueError as error:
        if not isinstance(error, _user_errors()):
            raise
        _say(f"Error: {error}")
        return 2
    return 0


def serve(source: Source, out: Path, *, random_steps: int) -> None:
    """Serve a config's trace on the kernels it names, into `out`.

    Raises ConfigError, and what kernels, models and traces raise, before anything is written.
    """
    config = parse_config(source.values, source=source)
    if not isinstance(config.executor, RealKernels):
        raise ConfigError("executor.kind: found simulated; allowed: kernels")
    if config.cluster.replicas != 1 or config.engine.batches_in_flight != 1:
        raise ConfigError("allowed here: one replica, and one batch in flight")
    start_s = time.monotonic()
    lines = StepLines()
    with explain_kernels():
        deployment = resolve(config)
        latency = build_latency(deployment)
        simulation = build_simulation(deployment, latency=latency, observers=[lines])
        (executor,) = simulation.kernels
        warm = list(_run_random_steps(deployment.config, executor.runner, random_steps))
    writer = Writer(out, config=source.values, machine=_describe(config.executor))
    lines.use(writer)
    try:
        for spans, duration_ns in warm:
            writer.write("random_step", spans=spans, duration_ns=duration_ns)
        ready_s = time.monotonic()
        _say(f"{out.name}: ready after {ready_s - start_s:.0f} s")
        simulation.serve(build_trace(config))
        writer.write_requests(simulation.records)
        writer.write("end", wall_s=round(time.monotonic() - ready_s, 3))
    finally:
        writer.close()
    _say(
        f"{out.name}: {lines.steps:,} steps of {sum(executor.durations_ns) / 1e9:.1f} s in all,"
        f" served in {time.monotonic() - ready_s:.0f} s"
    )


def _set_load(source: Source, pilot: Path, *, share: float, seconds: float) -> None:
    """As many requests a second as that share of what the pilot served, for so long."""
    rate = share * read_served(pilot).rate
    source.override(f"trace.arrivals={{kind: poisson, rate: {rate:.6g}}}")
    source.override(f"trace.requests={ceil(rate * seconds)}")
    _say(f"{rate:.1f} requests/s for {seconds:g} s: {share:.0%} of what {pilot.name} served")


def _run_random_steps(
    config: Config, runner: Runner, count: int
) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """(rows, ns) of steps such as the engine could run, in its pool, which nobody uses yet.

    They run twice, and the second time counts: libraries choose and load kernels at first use.
    """
    from calibrate.measure.limits import Limits
    from calibrate.measure.random_steps import draw_steps
    from calibrate.runner import Row, Step

    engine, pool = config.engine, runner.pool
    assert engine.max_num_seqs is not None
    assert engine.max_num_batched_tokens is not None
    assert engine.max_model_len is not None
    # Each row ends in a block of its own.
    room = pool.block_size * (pool.blocks - engine.max_num_seqs - _MOST_CHUNKS)
    if count and room < _LEAST_ROOM:
        raise ConfigError(
            f"engine.num_gpu_blocks_override: found {pool.blocks} blocks, too few for random steps"
            f" of {engine.max_num_seqs} sequences; allowed: more, or --random-steps 0"
        )
    limits = Limits(
        tokens=engine.max_num_batched_tokens,
        batch=engine.max_num_seqs,
        context=engine.max_model_len,
        pool_tokens={pool.format: room},
    )
    steps = draw_steps(count, formats=(pool.format,), limits=limits, seed=config.seed)
    for turn in range(2):
        for step in steps:
            free = iter(range(pool.blocks))
            rows = [
                Row([1] * n, before, list(islice(free, -(-(before + n) // pool.block_size))), True)
                for before, n in step.spans
            ]
            duration_ns = runner.run(Step(rows)).duration_ns
            if turn:
                yield list(step.spans), duration_ns


def _describe(kernels: RealKernels) -> dict[str, Any]:
    from calibrate.measure.machine import describe
    from calibrate.runner_parts import find_device

    return {**describe(find_device(kernels.device)), "kernels": kernels.model_dump()}


def _user_errors() -> tuple[type[Exception], ...]:
    from calibrate.kernels.errors import KernelError
    from calibrate.model import ModelError
    from traces.schema import TraceError

    return (ConfigError, KernelError, ModelError, TraceError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.serve_kernels", description=__doc__
    )
    parser.add_argument("config", type=Path, help="a YAML file with executor.kind: kernels")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="instead of")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; a whole one is kept")
    parser.add_argument("--random-steps", type=int, default=60, help="timed before the run")
    parser.add_argument("--pilot", type=Path, help="a file of the same, all requests at once")
    parser.add_argument("--share", type=float, default=0.85, help="of the pilot's requests/s")
    parser.add_argument("--seconds", type=float, default=45.0, help="in which requests arrive")
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
