"""`python -m calibrate.kernels [--check]`: what there is, in plain text, for bare machines.

`pagesim calibrate kernels` says the same in a table.
"""

from __future__ import annotations

import argparse

from calibrate.kernels.providers import PROVIDERS, load_kernels


def main(arguments: list[str] | None = None) -> int:
    """List the providers; with --check hold those that are here to fp64. 1 where one is off."""
    parser = argparse.ArgumentParser(prog="python -m calibrate.kernels", description=__doc__)
    parser.add_argument("--check", action="store_true", help="hold them to fp64, on this machine")
    check = parser.parse_args(arguments).check
    bad = 0
    for provider in PROVIDERS:
        reason = provider.missing()
        print(f"{provider.name}: {f'not here: {reason}' if reason else provider.attention}")
        if not reason and check:
            bad += _check(provider.name)
    return 1 if bad else 0


def _check(name: str) -> int:
    """Print each finding; how many are bad."""
    import torch

    from calibrate.kernels.check import check_kernels

    on_cuda = torch.cuda.is_available() and name != "cpp"
    bad = 0
    for found in check_kernels(load_kernels(name), "cuda" if on_cuda else "cpu"):
        bad += found.bad
        error = "refused" if found.error is None else f"{found.error:.1e}"
        mark = f"  OFF: {found.allowed:.1e} is allowed" if found.bad else ""
        what = f"{found.kernel:10} {found.format:20} {found.dtype:9}"
        print(f"  {what} {error}{mark}", flush=True)
    return bad


if __name__ == "__main__":
    raise SystemExit(main())
