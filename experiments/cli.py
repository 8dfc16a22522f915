"""The console command `pagesim`: the modules' commands under one name."""

from __future__ import annotations

from experiments.blocks import blocks
from experiments.calibrate_cli import main as calibrate
from experiments.capacity import capacity
from experiments.conformance import conformance
from experiments.exits import make_app
from experiments.follow import follow
from experiments.run import run
from experiments.schema import schema
from experiments.size import size
from experiments.trace_cli import main as trace
from experiments.validate import validate

main = make_app(
    run,
    follow,
    blocks,
    size,
    capacity,
    conformance,
    validate,
    schema,
    name="pagesim",
    help="Simulate LLM serving: replay a request trace through a scheduler and a paged KV cache.",
    no_args_is_help=True,
)
main.add_typer(trace)
main.add_typer(calibrate)

if __name__ == "__main__":
    main()
