"""What is asked of a kernel, and what is found. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from calibrate.kernels.errors import Unsupported


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """How far one kernel is off in one format."""

    kernel: str
    format: str
    """Of the KV pool; "" for dense parts."""
    dtype: str
    """Of queries, keys and values, or x; "" where bytes are moved."""
    error: float | None
    """Relative; None where the provider refuses, or fails."""
    allowed: float
    refused: str = ""
    """What it says where it refuses."""
    failed: str = ""
    """What went wrong where it could not be run at all."""

    @property
    def bad(self) -> bool:
        """Is it off by more than it may be? So is what is not a number, or did not run."""
        return bool(self.failed) or (self.error is not None and not self.error <= self.allowed)


@dataclass(frozen=True, slots=True)
class Asked:
    """One kernel in one format and dtype, before it is run."""

    kernel: str
    format: str
    dtype: str
    allowed: float
    run: Callable[[], float]
    """Returns the error."""

    def find(self) -> Finding:
        """Run it. Whatever becomes of it, the others can still be."""
        error, refused, failed = None, "", ""
        try:
            error = self.run()
        except Unsupported as reason:
            refused = str(reason)
        except Exception as what:  # compilers and drivers have errors of their own
            failed = f"{type(what).__name__}: {str(what).partition(chr(10))[0]}"
        return Finding(
            kernel=self.kernel,
            format=self.format,
            dtype=self.dtype,
            error=error,
            allowed=self.allowed,
            refused=refused,
            failed=failed,
        )
