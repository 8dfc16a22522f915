"""`pagesim trace`: the commands for traces under one name."""

from __future__ import annotations

from experiments.exits import make_app
from experiments.trace_generate import generate

main = make_app(
    generate,
    name="trace",
    help="Make traces.",
    no_args_is_help=True,
)
