"""Which rows of a weight matrix a tensor-parallel rank has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of a layer that rank `rank` of `size` has."""

    rank: int = 0
    size: int = 1

    def block(self, count: int) -> int:
        """How many of `count` things each rank has; the last ranks may have fewer or none."""
        return -(-count // self.size)

    def rows(self, count: int, height: int = 1) -> range:
        """The rows of this rank's part of `count` things of `height` rows each."""
        block = self.block(count)
        first, end = (min(count, block * rank) for rank in (self.rank, self.rank + 1))
        return range(first * height, end * height)
