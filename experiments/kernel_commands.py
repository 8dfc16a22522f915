"""`pagesim calibrate kernels`: which real kernels this machine has, and how exact they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from experiments.exits import DIFFERENT, exits

if TYPE_CHECKING:
    from rich.table import Table as Grid

    from calibrate.kernels.finding import Finding

_DTYPES = ("float32", "float16", "bfloat16")


def kernels(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Run them here and hold them to fp64.")
    ] = False,
) -> None:
    """List the providers of real kernels: what each can do, and why one is not here.

    With --check the exit code is 1 where a kernel is off by more than its dtype explains.
    """
    with exits():
        from calibrate.kernels.errors import MissingProvider
        from calibrate.kernels.providers import PROVIDERS
        from experiments.terminal import open_screen

        screen = open_screen()
        reasons = {provider.name: provider.missing() for provider in PROVIDERS}
        screen.print(_list_providers(reasons))
        for name, reason in reasons.items():
            if reason:
                screen.print(f"{name} is not here: {reason}", markup=False, highlight=False)
        if not check:
            return
        if all(reasons.values()):
            raise MissingProvider("--check: found no provider here; allowed: one or more")
        bad = 0
        for name, reason in reasons.items():
            if not reason:
                findings = _check(name)
                bad += sum(found.bad for found in findings)
                screen.print("", _list_errors(name, findings))
        if bad:
            screen.print(f"{bad} kernels are off by more than their dtype explains", style="red")
            raise typer.Exit(DIFFERENT)


def _check(name: str) -> list[Finding]:
    import torch

    from calibrate.kernels.check import check_kernels
    from calibrate.kernels.providers import load_kernels
    from experiments.terminal import count_aloud

    device = "cuda" if torch.cuda.is_available() and name != "cpp" else "cpu"
    return list(count_aloud(check_kernels(load_kernels(name), device), f"Checking {name}"))


def _list_providers(reasons: dict[str, str | None]) -> Grid:
    from rich import box
    from rich.table import Table as Grid

    from calibrate.kernels.providers import PROVIDERS

    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("provider", "here", "attention", "KV formats", "cache", "dense parts"):
        grid.add_column(column, no_wrap=column == "KV formats")
    for provider in PROVIDERS:
        grid.add_row(
            f"[cyan]{provider.name}",
            "no" if reasons[provider.name] else "[green]yes",
            provider.attention,
            "\n".join(provider.formats),
            provider.cache or "-",
            provider.dense or "-",
            style="dim" if reasons[provider.name] else None,
        )
    return grid


def _list_errors(name: str, findings: list[Finding]) -> Grid:
    """A row for each kernel and KV format, a column for each dtype."""
    from rich import box
    from rich.table import Table as Grid

    grid = Grid(
        title=f"{name}: largest error against fp64, relative",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in ("kernel", "KV format"):
        grid.add_column(column)
    for dtype in _DTYPES:
        grid.add_column(dtype, justify="right")
    cells = {(found.kernel, found.format, found.dtype): found for found in findings}
    for kernel, format in dict.fromkeys((found.kernel, found.format) for found in findings):
        row = (_say(cells.get((kernel, format, dtype))) for dtype in _DTYPES)
        grid.add_row(kernel, format, *row)
    return grid


def _say(found: Finding | None) -> str:
    if found is None:
        return ""
    if found.error is None:
        return "[dim]refused"
    if found.bad:
        return f"[red]{found.error:.1e} > {found.allowed:.1e}"
    return f"{found.error:.1e}" if found.error else "0"
