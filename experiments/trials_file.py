"""Trials in a file, each kept as soon as it is finished, so that a stopped run can go on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from experiments.build_executor import explain_kernels, load_shape
from experiments.deployment import resolve
from experiments.errors import ResultError
from experiments.files import complete
from experiments.identity import digest_code
from experiments.section import Section
from experiments.trials_bench import Bench, Regime

_SHOWN_DIGITS = 12
_FORMAT: Final = "pagesim trials 2"
_OLDER = re.compile(rb'"format": *"(pagesim trials (?!2")[0-9]+)"')


class TrialsFile(Section):
    """What a file of trials holds."""

    format: Literal["pagesim trials 2"] = _FORMAT
    same: dict[str, str | int]
    """What all trials of a file have in common."""
    trials: dict[Regime, dict[str, Any]] = Field(default_factory=dict)

    def add(self, regime: Regime, report: dict[str, Any]) -> TrialsFile:
        return self.model_copy(update={"trials": {**self.trials, regime: report}})

    def write(self, path: Path) -> None:
        """Raises ResultError where that cannot be done."""
        with complete(path) as unfinished:
            unfinished.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def take_up(path: Path, same: Mapping[str, str | int]) -> TrialsFile | None:
    """What a file holds, None where there is none.

    Raises ResultError for a file of something else, and where its trials differ in what they
    must have in common: it is left as it is.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        found = TrialsFile.model_validate_json(text, strict=True)
    except ValidationError as error:
        if (written := _OLDER.search(text)) is not None:
            raise ResultError(
                f"{path}: holds {written[1].decode()}, of another version of pagesim; allowed:"
                f" {_FORMAT}, or another file"
            ) from None
        first = error.errors()[0]
        at = first.get("ctx", {}).get("at") or ".".join(map(str, first["loc"])) or "the file"
        raise ResultError(
            f"{path}: holds no trials ({at}: {first['msg']}); allowed: what `pagesim calibrate"
            " validate` writes, or a file that is not there"
        ) from None
    for what, wanted in same.items():
        if (there := found.same.get(what)) != wanted:
            raise ResultError(
                f"{path}: holds trials of {what} {there}; allowed: {wanted}, or another file"
            )
    return found


def common(bench: Bench) -> dict[str, str | int]:
    """What trials must share to stand in one file: options, model, machine, code.

    Raises ConfigError where there is no such model or device.
    """
    import torch

    from calibrate.measure.machine import describe
    from calibrate.runner_parts import find_device

    kernels = bench.kernels
    shape = load_shape(resolve(bench.config("light", rate=None)), kernels)
    digest = hashlib.sha256(repr(shape).encode()).hexdigest()[:_SHOWN_DIGITS]
    with explain_kernels():
        device = find_device(kernels.device)
    return {
        "model": f"{shape.name} ({digest})",
        "provider": kernels.provider,
        "dtype": kernels.dtype,
        "kv_cache_dtype": bench.kv_cache_dtype,
        "requests": bench.requests,
        "seed": bench.seed,
        "device": str(describe(device)["device"]),
        "torch": str(torch.__version__),
        "code": digest_code()[:_SHOWN_DIGITS],
    }
