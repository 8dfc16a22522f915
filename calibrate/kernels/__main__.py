"""`python -m calibrate.kernels [--check]`: what there is, in plain text, for bare machines.

`pagesim calibrate kernels` says the same in a table.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from calibrate.kernels.finding import Finding
from calibrate.kernels.providers import PROVIDERS, Provider, load_kernels


def main(arguments: list[str] | None = None) -> int:
    """List the providers; with --check hold those that are here to fp64. 1 where one is off."""
    parser = argparse.ArgumentParser(prog="python -m calibrate.kernels", description=__doc__)
    parser.add_argument("--check", action="store_true", help="hold them to fp64, on this machine")
    names = [provider.name for provider in PROVIDERS]
    parser.add_argument("--provider", action="append", choices=names, help="only these")
    formats = [*dict.fromkeys(format for each in PROVIDERS for format in each.formats)]
    parser.add_argument("--format", action="append", choices=formats, help="check only these")
    parser.add_argument("--out", type=Path, help="what is found goes there, in JSON lines")
    asked = parser.parse_args(arguments)
    bad = 0
    for provider in PROVIDERS:
        if asked.provider and provider.name not in asked.provider:
            continue
        reason = provider.missing()
        print(f"{provider.name}: {f'not here: {reason}' if reason else provider.attention}")
        if not reason and asked.check:
            bad += _check(provider, asked.format or formats, asked.out)
    return 1 if bad else 0


def _check(provider: Provider, formats: Sequence[str], out: Path | None) -> int:
    """Print each finding; how many are bad."""
    import torch

    from calibrate.kernels.check import check_kernels

    on_cuda = torch.cuda.is_available() and provider.name != "cpp"
    device, bad = "cuda" if on_cuda else "cpu", 0
    for found in check_kernels(load_kernels(provider.name), device, formats=formats):
        bad += found.bad
        error = found.failed or ("refused" if found.error is None else f"{found.error:.1e}")
        mark = f"  OFF: {found.allowed:.1e} is allowed" if found.bad else ""
        what = f"{found.kernel:10} {found.format:20} {found.dtype:9}"
        print(f"  {what} {error}{mark}", flush=True)
        if out is not None:
            _keep(found, provider.name, out)
    return bad


def _keep(found: Finding, provider: str, out: Path) -> None:
    line = {"provider": provider, **asdict(found), "bad": found.bad}
    with out.open("a", encoding="utf-8") as file:
        # JSON has neither infinity nor what is not a number: they are told in words.
        if found.error is not None and not math.isfinite(found.error):
            line["error"] = str(found.error)
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
