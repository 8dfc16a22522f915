"""The rows of one step, decodes and chunks alike, as paged attention takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Which tokens are computed in a step, and where their sequences' KV lies.

    A row is n tokens of a sequence behind the `before` that it has computed: a decode has
    n = 1, a first chunk before = 0. There is no other difference between them. The rows'
    tokens lie behind one another in `tokens`-long tensors::

        query_starts    0          3  4                 9
        tokens          | row 0    |r1| row 2           |
        kv_lengths        before+3  ...                      own tokens included

    Token j of a row sees the keys at 0 .. before + j of its sequence.
    """

    spans: tuple[tuple[int, int], ...]
    """(before, n) of each row, for the host to know without asking the device."""
    query_starts: Tensor
    """int32 [rows + 1]: where a row's tokens begin; the last is the number of tokens."""
    kv_lengths: Tensor
    """int32 [rows]: before + n."""
    block_table: Tensor
    """int32 [rows, widest]: ids of a row's blocks; what is behind its last is not looked at."""

    @classmethod
    def of(
        cls,
        spans: Sequence[tuple[int, int]],
        tables: Sequence[Sequence[int]],
        *,
        block_size: int,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Rows of (before, n) and their block tables. Raises ValueError where they don't fit.

        A row may have n = 0: it is a seat without work, as in a padded batch.
        """
        if len(spans) != len(tables):
            raise ValueError(f"{len(spans)} rows but {len(tables)} block tables")
        for row, ((before, n), table) in enumerate(zip(spans, tables, strict=True)):
            if before < 0 or n < 0:
                raise ValueError(f"row {row}: {n} tokens behind {before}; neither may be negative")
            if len(table) * block_size < before + n:
                raise ValueError(
                    f"row {row}: {len(table)} blocks of {block_size} hold"
                    f" {len(table) * block_size} tokens, not {before + n}"
                )
        widest = max(map(len, tables), default=0)
        padded = np.zeros((len(tables), widest), dtype=np.int32)
        for row, table in enumerate(tables):
            padded[row, : len(table)] = table

        starts = [0, *accumulate(n for _, n in spans)]
        lengths = [before + n for before, n in spans]
        return cls(
            spans=tuple(spans),
            query_starts=send(np.asarray(starts, dtype=np.int32), device),
            kv_lengths=send(np.asarray(lengths, dtype=np.int32), device),
            block_table=send(padded, device),
        )

    def to(self, device: torch.device | str) -> Rows:
        """The same rows, their tensors on another device."""
        return replace(
            self,
            query_starts=self.query_starts.to(device),
            kv_lengths=self.kv_lengths.to(device),
            block_table=self.block_table.to(device),
        )

    @property
    def tokens(self) -> int:
        return sum(n for _, n in self.spans)

    @property
    def longest_query(self) -> int:
        return max((n for _, n in self.spans), default=0)

    @property
    def longest_kv(self) -> int:
        return max((before + n for before, n in self.spans), default=0)

    @property
    def positions(self) -> Tensor:
        """int64 [tokens]: each token's place in its sequence, on the tables' device."""
        return send(self._positions(), self.block_table.device)

    @property
    def last_tokens(self) -> Tensor:
        """int64 [rows with tokens]: where each row's last token lies, to take logits of."""
        ends = accumulate(n for _, n in self.spans)
        last = [end - 1 for end, (_, n) in zip(ends, self.spans, strict=True) if n]
        return send(np.asarray(last, dtype=np.int64), self.block_table.device)

    def slots(self, block_size: int) -> Tensor:
        """int64 [tokens]: the slot of the pool that each token's K and V go to."""
        # The table is read where it lies: the host need not wait for the device.
        device = self.block_table.device
        rows = np.repeat(np.arange(len(self.spans)), [n for _, n in self.spans])
        positions = self._positions()
        places = rows * self.block_table.shape[1] + positions // block_size
        blocks = self.block_table.flatten()[send(places, device)].long()
        return blocks * block_size + send(positions % block_size, device)

    def _positions(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        parts = [np.arange(before, before + n, dtype=np.int64) for before, n in self.spans]
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def send(values: NDArray[np.integer[Any]], device: torch.device | str) -> Tensor:
    """The numbers on a device. CUDA's are sent while the host goes on: from memory that is
    pinned, which torch keeps until they have arrived."""
    tensor = torch.from_numpy(values)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
