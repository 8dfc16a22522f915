"""What one call takes longer because the contexts of its decodes differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calibrate.curves import Floats

SPLIT_BELOW = 0.8
"""Sequences that run at once, as a share of those there is room for, below which
FlashAttention-2 shares out their keys (`num_splits_heuristic`, flash_api.cpp)."""


class Skew:
    """Nanoseconds beyond those of as many decodes of the mean context.

    Known by number of decodes as ns for each token by which the longest exceeds the mean, linear
    between. Where whole sequences wait for room, as FlashAttention-2 lets them once there are
    enough, by a law instead: the longest one comes at any moment and takes x of the call's time,
    so it runs on alone for x^2 / 2 of it (x - 1/2 where x > 1), at `share` of its time in company,
    or at `token_ns` for each of its tokens.
    """

    def __init__(
        self,
        known: Sequence[tuple[int, float]] = (),
        *,
        calls: float = 1.0,
        tail: Mapping[str, float] | None = None,
    ) -> None:
        """`known`: (decodes, ns of one call per token) in rising order. `tail`: `at_once`, how many
        sequences there is room for, and `share`, or `token_ns` and from how many decodes on they
        are not split, `whole_from`; where empty there is no law."""
        batches, slopes = zip(*known, strict=True) if known else ((0,), (0.0,))
        line = calls * np.interp(np.arange(batches[-1] + 1), batches, slopes)
        self._slopes: list[float] = line.tolist()
        law = tail or {"at_once": 0.0}
        self._at_once, self._share = law["at_once"], law.get("share", 0.0)
        self._whole_from = law.get("whole_from", SPLIT_BELOW * self._at_once)
        paced = self._at_once > 0 and "token_ns" in law
        self._token_ns = calls * law["token_ns"] / self._at_once if paced else None

    def one(self, launched: int, n: int, context: int, longest: int, alike: float) -> float:
        """Of n decodes of so many tokens of context together, in a call made for `launched` ones;
        `alike`: its time if their contexts were equal."""
        if self._waits(launched):
            on = _alone(self._at_once * longest / context) - _alone(self._at_once / n)
            if self._token_ns is not None:
                return self._token_ns * context * on
            return alike * (self._share * on)
        slope = self._slopes[min(launched, len(self._slopes) - 1)]
        return slope * (longest - context / n) if slope else 0.0

    def many(
        self,
        launched: int,
        n: int,
        context: NDArray[np.int64],
        longest: NDArray[np.int64],
        alike: Floats,
    ) -> Floats:
        """Bit for bit those of `one`."""
        if self._waits(launched):
            on = alone(self._at_once * longest / context) - _alone(self._at_once / n)
            beyond: Floats = alike * (self._share * on)
            return beyond if self._token_ns is None else self._token_ns * context * on
        slope = self._slopes[min(launched, len(self._slopes) - 1)]
        sloped: Floats = slope * (longest - context / n)
        return sloped

    def _waits(self, launched: int) -> bool:
        return self._at_once > 0 and launched >= self._whole_from


def alone(x: Floats) -> Floats:
    """How much of a call's time one runs on alone that takes x of it, beginning at any moment."""
    least = np.minimum(x, 1.0)
    on: Floats = least * least / 2 + np.maximum(x - 1.0, 0.0)
    return on


def _alone(x: float) -> float:
    """Bit for bit the same of a number."""
    least = min(x, 1.0)
    return least * least / 2 + max(x - 1.0, 0.0)
