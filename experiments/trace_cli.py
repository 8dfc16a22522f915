"""`pagesim trace ...`: everything about traces under one name."""

from __future__ import annotations

from experiments.exits import make_app
from experiments.trace_fetch import fetch
from experiments.trace_generate import generate
from experiments.trace_inspect import inspect
from experiments.trace_sort import sort

main = make_app(
    inspect,
    fetch,
    generate,
    sort,
    name="trace",
    help="Look at traces, fetch public ones, make synthetic ones, sort them.",
    no_args_is_help=True,
)
