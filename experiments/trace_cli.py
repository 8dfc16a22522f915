"""`pagesim trace ...`: everything about traces under one name."""

from __future__ import annotations

from experiments.exits import make_app
from experiments.trace_fetch import fetch
from experiments.trace_generate import generate
from experiments.trace_inspect import inspect

main = make_app(
    inspect,
    fetch,
    generate,
    name="trace",
    help="Look at traces, fetch public ones, make synthetic ones.",
    no_args_is_help=True,
)
