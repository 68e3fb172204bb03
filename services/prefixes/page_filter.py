"""What a worker says of the pages that it has cached: a Bloom filter over their names, of a bounded size.

It is a hint for whoever chooses a worker. It may say that a page is there that is not, more often the more there are;
a page that is there is never missing from it.
Legend: N names, H bits of a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.prefixes.page_names import NAME_BYTES

BITS_PER_NAME = 8  # and so of a hundred names that are not there about three seem to be
HASHES = 4  # words of a name, each of which chooses a bit
LEAST_BYTES, MOST_BYTES = 64, 64 << 10


@dataclass(frozen=True, slots=True)
class PageFilter:
    """The names of a worker's cached pages. `bits` has a power of two of bytes."""

    bits: bytes

    @classmethod
    def over(cls, names: Sequence[bytes]) -> PageFilter:
        size = LEAST_BYTES
        while size < MOST_BYTES and 8 * size < BITS_PER_NAME * len(names):
            size *= 2
        words = np.frombuffer(b"".join(names), "<u4").reshape(-1, NAME_BYTES // 4)[:, :HASHES]
        bits: NDArray[np.bool_] = np.zeros(8 * size, np.bool_)
        bits[(words & np.uint32(8 * size - 1)).ravel()] = True
        return cls(np.packbits(bits, bitorder="little").tobytes())

    @classmethod
    def read(cls, data: bytes) -> PageFilter:
        """Raises ValueError when it has not the size of a filter."""
        if not LEAST_BYTES <= len(data) <= MOST_BYTES or len(data) & (len(data) - 1):
            raise ValueError(f"a filter of pages does not have {len(data)} bytes")
        return cls(data)

    def __contains__(self, name: bytes) -> bool:
        mask = 8 * len(self.bits) - 1
        for at in range(0, 4 * HASHES, 4):
            place = int.from_bytes(name[at : at + 4], "little") & mask
            if not self.bits[place >> 3] & 1 << (place & 7):
                return False
        return True
