"""`pagesim trace`: the commands for traces under one name."""

from __future__ import annotations

from experiments.exits import make_app
from experiments.trace_fetch import fetch
from experiments.trace_inspect import inspect

main = make_app(
    inspect,
    fetch,
    name="trace",
    help="Look at traces and fetch public ones.",
    no_args_is_help=True,
)
