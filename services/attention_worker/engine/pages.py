"""The page numbers of the latent cache: which are free, and which each running sequence has. No torch, no I/O.

Legend: S rows of the page table (running sequences), X pages of a row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class PagePool:
    """Allocates pages and keeps the page table. A row is one running sequence; its pages are in order."""

    def __init__(self, num_pages: int, page_size: int, rows: int, max_length: int) -> None:
        self.page_size = page_size
        self.total = num_pages
        self.table_SX: NDArray[np.int32] = np.full((rows, self.pages_for(max_length)), -1, np.int32)
        self._held = [0] * rows
        self._free_rows = list(range(rows))[::-1]
        self._free = list(range(num_pages))[::-1]

    @property
    def used(self) -> int:
        return self.total - len(self._free)

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def allocate(self, tokens: int) -> int | None:
        """Allocates a row with pages for `tokens` positions; None when there are not enough pages or rows."""
        if not self._free_rows or self.pages_for(tokens) > len(self._free):
            return None
        row = self._free_rows.pop()
        self.grow(row, tokens)
        return row

    def grow(self, row: int, tokens: int) -> bool:
        """Extends a row to `tokens` positions; false, with nothing changed, when there are not enough pages."""
        held, wanted = self._held[row], self.pages_for(tokens)
        if wanted <= held:
            return True
        if wanted - held > len(self._free):
            return False
        for index in range(held, wanted):
            self.table_SX[row, index] = self._free.pop()
        self._held[row] = wanted
        return True

    def free(self, row: int) -> None:
        """Frees a row and its pages."""
        held = self._held[row]
        assert held, f"row {row} has no pages"
        self._free.extend(self.table_SX[row, :held].tolist())
        self.table_SX[row, :held] = -1
        self._held[row] = 0
        self._free_rows.append(row)
