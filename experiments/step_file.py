"""Step models as files: JSON with the prices, what they were fitted on, and how far they err."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from calibrate.step_fit import Errors, Fit
from calibrate.step_log import StepLog
from calibrate.step_model import Prices, Seen, StepModel
from experiments.errors import ConfigError, shown
from experiments.explain import explain
from experiments.files import complete
from experiments.identity import read_versions
from experiments.section import Section, refuse
from experiments.words import say_share

_FORMAT = "pagesim step model 1"
_SHOWN_DIGITS = 8
_ALLOWED = "allowed: a file that `pagesim calibrate from-steps LOG --out FILE` wrote"

Count = Annotated[int, Field(ge=0, le=10**15)]


class Log(Section):
    """The file that the prices were fitted on."""

    name: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    steps: Count
    columns: dict[str, str]
    notes: dict[str, Count]


class Options(Section):
    """How the fit was asked for."""

    holdout: Annotated[float, Field(gt=0, lt=1)]
    seed: Annotated[int, Field(ge=0)]
    skip: Annotated[int, Field(ge=0)]


class Residuals(Section):
    """measured / predicted - 1 of the steps held out at random."""

    p5: float
    p50: float
    p95: float


class Judged(Section):
    """How far predictions are off: of the steps fitted on, and of steps held out."""

    fitted: Errors
    held_out_at_random: Errors
    held_out_last: Errors
    residuals: Residuals


class StepFile(Section):
    """What a step model's file holds."""

    format: Literal["pagesim step model 1"]
    versions: dict[str, str]
    log: Log
    fit: Options
    prices: Prices
    host_ns: Annotated[int, Field(ge=0, le=10**12)]
    """Of every step, beside its price."""
    seen: Seen
    errors: Judged

    @model_validator(mode="after")
    def _check_prices(self) -> Self:
        try:
            self.prices.check()
        except ValueError as error:
            refuse(str(error), at="prices")
        return self

    @classmethod
    def of(cls, fit: Fit, log: StepLog, *, sha256: str, options: Options) -> StepFile:
        """Raises ConfigError for what no log can say."""
        with explain({}, None):
            return cls(
                format="pagesim step model 1",
                versions=read_versions(),
                log=Log(
                    name=log.name,
                    sha256=sha256,
                    steps=len(log.duration_ns),
                    columns=log.columns,
                    notes=dict(log.notes),
                ),
                fit=options,
                prices=fit.prices,
                host_ns=fit.host_ns,
                seen=fit.seen,
                errors=Judged(
                    fitted=fit.errors,
                    held_out_at_random=fit.random.errors,
                    held_out_last=fit.last.errors,
                    residuals=Residuals(**fit.residuals),
                ),
            )

    def write(self, path: Path) -> None:
        """Raises ResultError where that cannot be done."""
        with complete(path) as unfinished:
            text = self.model_dump_json(indent=2)
            unfinished.write_text(text + "\n", encoding="utf-8")

    def build(self) -> StepModel:
        log, off, spread = self.log, self.errors.held_out_at_random, self.errors.residuals
        source = (
            f"fitted on {log.steps:,} steps of {log.name} (sha256 {log.sha256[:_SHOWN_DIGITS]});"
            f" unseen ones {say_share(off.mean)} off on average, between"
            f" {100 * spread.p5:+.0f} % and {100 * spread.p95:+.0f} % (P5, P95)"
        )
        return StepModel(self.prices, self.seen, host_ns=self.host_ns, source=source)


def digest(path: Path) -> str:
    """Sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_step_model(path: str | Path) -> StepFile:
    """Raises ConfigError where the file is no step model, and says what is wrong with it."""
    place = f"latency.path: {path}"
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{place}: no such file; {_ALLOWED}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: found no JSON ({error}); {_ALLOWED}") from None
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise ConfigError(f"{place}: found {shown(values)}; {_ALLOWED}")
    try:
        with explain(values, None):
            return StepFile.model_validate(values, strict=False)  # JSON has no tuples
    except ConfigError as error:
        lines = str(error).splitlines()
        raise ConfigError("\n".join(f"{place}: {line}" for line in lines)) from None
