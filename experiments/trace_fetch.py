"""`python -m traces.fetch NAME` and `pagesim trace fetch NAME`: public traces by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.exits import exits, make_app

if TYPE_CHECKING:
    from rich.console import Console

    from traces.datasets import Dataset
    from traces.download import Watch


def fetch(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One of those that --list shows.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show what can be fetched.")] = False,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to; else the user's cache folder.")
    ] = None,
) -> None:
    """Fetch a public trace from its official address and check that it is the right one."""
    with exits(stopped="the same command goes on from there"):
        from rich.console import Console

        from experiments.errors import ConfigError
        from experiments.terminal import open_screen
        from traces.datasets import cache_folder, load_datasets

        screen = open_screen()
        datasets = load_datasets()
        folder = cache_folder() if to is None else to
        if listed or name is None:
            _list(list(datasets.values()), screen, folder)
            return
        if name not in datasets:
            from calibrate.naming import did_you_mean

            known = {each: each for each in datasets}
            raise ConfigError(f"unknown trace {name!r}; {did_you_mean(name, known)}")
        dataset = datasets[name]
        path = folder / dataset.filename
        if _is_there(dataset, path):
            screen.print("It was fetched before, and its checksum is right.", style="yellow")
        else:
            from traces.download import download

            with _progress(dataset, Console(stderr=True)) as watch:
                download(dataset.url, path, sha256=dataset.sha256, watch=watch)
        _say_next(dataset, path, screen)


def _is_there(dataset: Dataset, path: Path) -> bool:
    """Raises ConfigError for another file under that name: it may be the user's own."""
    from experiments.errors import ConfigError
    from traces.download import checksum

    if not path.exists():
        return False
    try:
        found = checksum(path)
    except OSError as error:
        allowed = "a file that can be read, or none (fetch elsewhere with --to DIR)"
        raise ConfigError(f"{path}: {error.strerror}; allowed: {allowed}") from None
    if found != dataset.sha256:
        raise ConfigError(
            f"{path}: there is a file with sha256 {found}; allowed: {dataset.sha256}, or none"
            " (move it away, or fetch elsewhere with --to DIR)"
        )
    return True


@contextmanager
def _progress(dataset: Dataset, console: Console) -> Iterator[Watch]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(dataset.filename, total=dataset.size_bytes)

        def watch(there: int, total: int | None) -> None:
            progress.update(task, completed=there, total=total or dataset.size_bytes)

        yield watch


def _list(datasets: list[Dataset], screen: Console, folder: Path) -> None:
    from rich.text import Text

    from experiments.screen import make_table

    table = make_table("name")
    for column in ("MB", "format", "licence"):
        table.add_column(column, justify="right" if column == "MB" else "left")
    for dataset in datasets:
        size = "?" if dataset.size_bytes is None else f"{dataset.size_bytes / 1e6:,.1f}"
        table.add_row(dataset.name, size, dataset.format, dataset.licence)
    screen.print(table)
    screen.print()
    for citation in dict.fromkeys(dataset.citation for dataset in datasets):
        names = ", ".join(each.name for each in datasets if each.citation == citation)
        screen.print(Text(f"{names}: {citation}", "dim"))
    usage = f"pagesim trace fetch {datasets[0].name}"
    screen.print(Text(f"\nThey go to {folder}; a name fetches one: {usage}"))


def _say_next(dataset: Dataset, path: Path, screen: Console) -> None:
    """In lines that can be copied: never wrapped."""
    from shlex import quote

    from rich.text import Text

    file = quote(str(path))
    lines = [
        Text(str(path), "bold cyan"),
        Text(f"{dataset.about}; {dataset.licence}; {dataset.citation}", "dim"),
        Text(f"next:\n  pagesim trace inspect {file}"),
    ]
    if dataset.config is not None:
        command = f"python -m experiments.run {dataset.config} --set trace.path={file}"
        lines.append(Text(f"  {command}"))
    for line in lines:
        screen.print(line, soft_wrap=True)


main = make_app(fetch)

if __name__ == "__main__":
    main()
