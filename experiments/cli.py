"""The console command `pagesim`: the modules' commands under one name."""

from __future__ import annotations

from experiments.blocks import blocks
from experiments.conformance import conformance
from experiments.exits import make_app
from experiments.follow import follow
from experiments.run import run
from experiments.schema import schema

main = make_app(
    run,
    follow,
    blocks,
    conformance,
    schema,
    name="pagesim",
    help="Simulate LLM serving: replay a request trace through a scheduler and a paged KV cache.",
    no_args_is_help=True,
)

if __name__ == "__main__":
    main()
