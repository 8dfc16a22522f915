"""`pagesim calibrate`: the commands that make clocks, under one name."""

from __future__ import annotations

from experiments.exits import make_app
from experiments.from_steps import from_steps

main = make_app(
    from_steps,
    name="calibrate",
    help="Make clocks: step times from what an engine really took.",
    no_args_is_help=True,
)
