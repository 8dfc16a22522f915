"""Commands and how they end: a user's mistake is one message and exit code 2, a stop 130."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import typer

from experiments.errors import NO_ROOM

DIFFERENT = 1
"""What was compared is not the same."""
USER_ERROR = 2
STOPPED = 130


@contextmanager
def exits(*, stopped: str = "nothing was written") -> Iterator[None]:
    """Raise typer.Exit instead of a user's error, Ctrl-C or SIGTERM, and say what it was.

    `stopped` says what a stop leaves behind. Both stops unwind the stack, so that nothing is
    left half-written.
    """
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"Stopped; {stopped}.", err=True)
        raise typer.Exit(STOPPED) from None
    except (ValueError, RuntimeError) as error:
        if not isinstance(error, user_errors()):
            raise
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(USER_ERROR) from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        # Files say so by themselves; this is standard output, or what nobody thought of.
        typer.echo(f"Error: output cannot be written ({os.strerror(error.errno)})", err=True)
        raise typer.Exit(USER_ERROR) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def make_app(*commands: Callable[..., None], **options: Any) -> typer.Typer:
    """A program of these commands; a single one needs no name. Bugs keep plain tracebacks."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, **options)
    for command in commands:
        app.command()(command)
    return app


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def user_errors() -> tuple[type[Exception], ...]:
    """Every error that is made for a user's eyes."""
    from calibrate.device import DeviceError
    from calibrate.kernels.errors import KernelError
    from calibrate.measure.errors import MeasureError
    from calibrate.memory import DoesNotFit
    from calibrate.model import ModelError
    from calibrate.step_log import FitError
    from calibrate.table_schema import TableError
    from experiments.errors import ConfigError, ResultError
    from sim.stuck import Livelocked, Stalled
    from traces.download import DownloadError
    from traces.schema import TraceError

    return (
        *(ConfigError, ResultError, TraceError, DownloadError, FitError, TableError),
        *(ModelError, DeviceError, DoesNotFit, KernelError, Livelocked),
        *(Stalled, MeasureError),
    )
