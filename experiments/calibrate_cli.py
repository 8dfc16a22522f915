"""`pagesim calibrate`: the commands that make clocks, under one name."""

from __future__ import annotations

from experiments.compare_served import compare_served
from experiments.exits import make_app
from experiments.from_steps import from_steps
from experiments.kernel_commands import kernels
from experiments.measure import convert, measure_kernels
from experiments.table_ceilings import compare_tables
from experiments.table_commands import import_profile, show
from experiments.trials_command import validate

main = make_app(
    show,
    from_steps,
    validate,
    kernels,
    convert,
    name="calibrate",
    help="Make clocks and look at them: from an engine's steps, from measured operators.",
    no_args_is_help=True,
)
main.command("import")(import_profile)
main.command("run")(measure_kernels)
main.command("compare")(compare_tables)
main.command("compare-served")(compare_served)
