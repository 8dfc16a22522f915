"""`python -m experiments.blocks CONFIG`: the KV pool as a map, and as an animation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.exits import exits, make_app

if TYPE_CHECKING:
    from rich.console import Console

    from experiments.blocks_snapshot import Holder, Snapshot
    from experiments.blocks_watch import Theatre

_PICTURES = (".png", ".svg", ".pdf")
_PIPE_COLUMNS = 100
_FRAMES, _FPS = 100, 10


def animate(
    theatre: Theatre,
    path: Path,
    *,
    span_ns: tuple[int, int | None],
    frames: int,
    fps: float,
    request: str | None,
    errors: Console,
) -> int:
    """Write a GIF of evenly spaced moments, the first and last of which are the span's; a span
    without an end goes on to the end of the replica's last step. Returns for how many
    milliseconds each is shown. Raises ConfigError."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from experiments.blocks_files import written
    from experiments.blocks_film import Film
    from experiments.blocks_find import say_scene, show_progress
    from experiments.blocks_words import say_moment
    from experiments.errors import ConfigError

    from_ns, to_ns = span_ns
    if to_ns is None:
        with show_progress(theatre, errors) as beside:
            to_ns = theatre.count(beside=beside).end_ns
    if to_ns <= from_ns:
        raise ConfigError(
            f"--from, --to: found {say_moment(from_ns)} to {say_moment(to_ns)};"
            " allowed: an end after the start"
        )
    film = Film(
        name=theatre.deployment.config.name,
        footer=say_scene(theatre),
        span_ns=(from_ns, to_ns),
        request=request,
    )
    with written(path) as draft:
        columns = TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        hidden = not errors.is_terminal
        with Progress(*columns, console=errors, transient=True, disable=hidden) as progress:
            task = progress.add_task("", total=frames)

            def see(snapshot: Snapshot) -> None:
                film.add(snapshot)
                progress.advance(task)

            gaps = frames - 1
            times = [from_ns + (to_ns - from_ns) * at // gaps for at in range(frames)]
            theatre.watch(see, times=times)
        return film.save(draft, fps=fps)


def blocks(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, as in configs/.")],
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When to look: 1.5s or 250ms of simulated time."),
    ] = None,
    step: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Look in this step, from 0 on.")
    ] = None,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="Whose block table, by the trace's id.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value: engine.block_size=32."),
    ] = None,
    replica: Annotated[int, typer.Option(metavar="N", min=0, help="Whose memory.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture too: .png, .svg or .pdf.")
    ] = None,
    gif: Annotated[
        Path | None,
        typer.Option("--animate", metavar="FILE.gif", help="Instead, an animation, frame by frame"),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TIME", help="Where the animation begins; at 0 if not given."
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="TIME", help="Where it ends; with the last step if not given."
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, max=1000, help=f"Evenly spaced; {_FRAMES} if not given."),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(metavar="F", min=0.1, max=50, help=f"Frames per second; {_FPS} if not given."),
    ] = None,
) -> None:
    """Show the blocks of the KV pool: who holds them at a moment, or all the time.

    Without a time or a step it is the first step in which most blocks are held (by the
    request, if one is named). Runs step by step, and writes nothing but the files you name.
    """
    with exits():
        from rich.console import Console

        from experiments.blocks_files import check_file
        from experiments.blocks_find import choose, find_snapshot
        from experiments.blocks_watch import Theatre
        from experiments.blocks_words import parse_moment
        from experiments.config import load_config
        from experiments.errors import ConfigError

        if sum(option is not None for option in (at, step, gif)) > 1:
            raise ConfigError("found several of --at, --step, --animate; allowed: one of them")
        if gif is None and (start, end, frames, fps) != (None,) * 4:
            raise ConfigError("found --from, --to, --frames or --fps; allowed: with --animate")
        if gif is not None and out is not None:
            raise ConfigError("found --out and --animate; allowed: one of them")
        check_file(out, option="--out", suffixes=_PICTURES)
        check_file(gif, option="--animate", suffixes=(".gif",))
        at_ns = None if at is None else parse_moment(at, option="--at")
        start_ns = 0 if start is None else parse_moment(start, option="--from")
        end_ns = None if end is None else parse_moment(end, option="--to")
        theatre = Theatre.of(load_config(config, overrides=overrides or ()), replica=replica)
        if request is not None:
            request = theatre.name_sequence(request)
        screen = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS, highlight=False)
        errors = Console(stderr=True, highlight=False)
        for note in theatre.notes:
            errors.print(f"Note: {note}", style="yellow", markup=False, soft_wrap=True)
        if gif is not None:
            frames = frames or _FRAMES
            shown_ms = animate(
                theatre,
                gif,
                span_ns=(start_ns, end_ns),
                frames=frames,
                fps=fps or _FPS,
                request=request,
                errors=errors,
            )
            said = f"{frames} frames of {shown_ms / 1000:g} s: {gif}"
            screen.print(said, soft_wrap=True, markup=False)
            return
        snapshot = find_snapshot(theatre, at_ns=at_ns, step=step, request=request, errors=errors)
        chosen = choose(snapshot, request)
        _show(theatre, snapshot, chosen, screen)
        if out is not None:
            _draw(theatre, snapshot, chosen, out)
            screen.print(f"\npicture: {out}", soft_wrap=True, markup=False)


def _show(theatre: Theatre, snapshot: Snapshot, chosen: Holder | None, screen: Console) -> None:
    from experiments.blocks_find import say_scene
    from experiments.blocks_screen import show_snapshot

    show_snapshot(snapshot, chosen, screen, name=theatre.deployment.config.name)
    screen.print(f"\n{say_scene(theatre)}", style="dim", soft_wrap=True, markup=False)


def _draw(theatre: Theatre, snapshot: Snapshot, chosen: Holder | None, out: Path) -> None:
    from experiments import style
    from experiments.blocks_figure import draw_snapshot
    from experiments.blocks_files import written
    from experiments.blocks_find import say_scene

    name = theatre.deployment.config.name
    with written(out) as draft, style.styled():
        style.save(draw_snapshot(snapshot, chosen, name=name, footer=say_scene(theatre)), draft)


main = make_app(blocks)

if __name__ == "__main__":
    main()
