"""`python -m calibrate.validate`: is the clock as good as real kernels are steady?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.exits import DIFFERENT, exits, make_app

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.trials_bench import Bench, Regime


def validate(
    model: Annotated[
        str, typer.Option(help="Whose shape is run: tiny, a shipped model, or a config.json.")
    ] = "tiny",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    provider: Annotated[str, typer.Option(help="Who wrote the kernels.")] = "torch",
    dtype: Annotated[str, typer.Option(help="Of weights and activations.")] = "float32",
    kv_cache_dtype: Annotated[str, typer.Option(help="As engine.kv_cache_dtype.")] = "auto",
    regimes: Annotated[
        list[str] | None,
        typer.Option("--regime", metavar="NAME", help="light, knee, overload, pressure or hits."),
    ] = None,
    requests: Annotated[int, typer.Option(min=20, max=100_000, help="Of each run.")] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Of the traces.")] = 0,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Keep each regime there when it is finished; a stopped run goes on with it.",
        ),
    ] = None,
) -> None:
    """Serve a trace on real kernels twice, predict it from steps of others like it, compare.

    Those others are drawn with other seeds, and served in turn with it, a few steps each. They
    tell what steps cost, and how fast the machine was meanwhile.

    Five regimes, each at a load that its own pilot finds. The exit code is 0 only if every mean
    of TTFT, TPOT and E2E is off by no more than 5 %, or 1.5 times what the two real runs differ
    by, and the decisions are the same.
    """
    kept = "nothing was kept (--json FILE keeps what is finished)"
    if json_file is not None:
        kept = f"{json_file} keeps the regimes that were finished; the same command goes on"
    with exits(stopped=kept):
        from rich.console import Console

        from experiments.blocks_files import check_file
        from experiments.build_executor import explain_kernels
        from experiments.config import parse_config
        from experiments.executor_config import RealKernels
        from experiments.terminal import open_screen
        from experiments.trials_bench import ENGINE, REGIMES, Bench

        check_file(json_file, option="--json", suffixes=(".json",))
        chosen = _choose(regimes, REGIMES)
        kernels: dict[str, Any] = {"kind": "kernels", "model": model, "device": device}
        kernels |= {"provider": provider, "dtype": dtype}
        config = parse_config(
            {"executor": kernels, "engine": ENGINE, "trace": {"kind": "synthetic", "requests": 1}}
        )
        assert isinstance(config.executor, RealKernels)
        bench = Bench(
            kernels=config.executor,
            kv_cache_dtype=kv_cache_dtype,
            requests=requests,
            seed=seed,
        )
        screen, aside = open_screen(), Console(stderr=True)
        with aside.status("") as status, explain_kernels():
            reports = _run(bench, chosen, json_file, say=status.update, tell=aside.print)
        screen.print(tabulate_trials(reports))
        for report in reports:
            for note in _say(report):
                screen.print(note, style="yellow", markup=False)
    good = all(each["passed"] and each["schedule_identical"] for each in reports)
    raise typer.Exit(0 if good else DIFFERENT)


def _run(
    bench: Bench,
    regimes: tuple[Regime, ...],
    path: Path | None,
    *,
    say: Callable[[str], None],
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """The reports of these regimes; what the file has of them does not run again."""
    from experiments.trials import run_trials
    from experiments.trials_file import TrialsFile, common, take_up

    same = common(bench) if path else {}
    kept = (take_up(path, same) if path else None) or TrialsFile(same=same)
    if known := [regime for regime in regimes if regime in kept.trials]:
        tell(f"{path} has {', '.join(known)} of the same options, machine and code: not run again")
    missing = tuple(regime for regime in regimes if regime not in kept.trials)
    if path:
        kept.write(path)
    for trial in run_trials(bench, missing, say=say):
        kept = kept.add(trial.regime, trial.report)
        if path:
            kept.write(path)
    return [kept.trials[regime] for regime in regimes]


def _choose(names: list[str] | None, known: tuple[Any, ...]) -> tuple[Any, ...]:
    from experiments.errors import ConfigError

    for name in names or ():
        if name not in known:
            raise ConfigError(f"--regime: found {name}; allowed: {', '.join(known)}")
    return tuple(name for name in known if not names or name in names)


def tabulate_trials(reports: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    from experiments.words import say_time

    table = Table(box=box.HORIZONTALS, show_edge=False, pad_edge=False)
    table.add_column("mean of")
    for name in (
        "first run",
        "predicted",
        "second",
        "predicted",
        "each",
        "off",
        "differ",
        "allowed",
    ):
        table.add_column(name, justify="right")
    for report in reports:
        table.add_row(report["regime"], style="bold")
        for metric, row in report["gate"].items():
            table.add_row(
                f"  {metric.removesuffix('_ms').upper()}",
                *(
                    say_time(ms)
                    for pair in zip(row["real"], row["predicted"], strict=True)
                    for ms in pair
                ),
                _colour_each(row),
                f"{row['error_pct']:+.1f} %",
                f"{row['repeat_pct']:+.1f} %",
                f"{row['allowed_pct']:.1f} %",
                style=None if row["passed"] else "red",
            )
    return table


def _colour_each(row: dict[str, Any]) -> str:
    """What each run is off by itself; yellow where the gate alone passes it."""
    first, second = row["each_error_pct"]
    told = f"{first:+.1f}, {second:+.1f} %"
    return told if row["each_within"] or not row["passed"] else f"[yellow]{told}[/]"


def _say(report: dict[str, Any]) -> list[str]:
    from experiments.trials import GATE_PCT

    fits, preemptions = report["rehearsal"], report["first"]["preemptions"]
    counts = " and ".join(f"{fit['steps']:,}" for fit in fits)
    off = " and ".join(f"{100 * fit['unseen_mape']:.0f}" for fit in fits)
    total = " and ".join(f"{100 * fit['run_total']:+.1f}" for fit in fits)
    strict = [row["each_within"] for row in report["gate"].values()]
    paces = " and ".join("{:.2f} to {:.2f}".format(*fit["pace"]) for fit in fits)
    loads = " and ".join(f"{share:.2f}" for share in report["load"]["runs"])
    plain = ", ".join(
        f"{name.removesuffix('_ms').upper()} {error:+.1f}"
        for name, error in report["plain_error_pct"].items()
    )
    said = [
        f"{report['regime']}: {report['steps']:,} steps,"
        f" {preemptions['real']} preemptions ({preemptions['predicted']} predicted),"
        f" {report['hit_tokens']:,} tokens hit; load {report['load']['pilot']:.2f} by the pilot's"
        f" clock, {loads} by the runs'",
        f"  clocks: fitted on {counts} steps of other traces; unseen ones {off} % off on average,"
        f" the run's together {total} %; the machine took {paces} times its average; predicted"
        f" without regard to that, means are {plain} % off",
        f"  within {GATE_PCT:g} % in each run by itself: {sum(strict)} of {len(strict)} means",
    ]
    if notes := report["clock_notes"]:
        said.append("  clocks: " + "; ".join(f"{what}: {n:,}" for what, n in notes.items()))
    if not report["schedule_identical"]:
        said.append(f"! {report['regime']}: decisions differ under the same step times")
    return said


main = make_app(validate)
