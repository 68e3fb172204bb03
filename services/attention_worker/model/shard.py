"""Which rows of a matrix a rank has. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the equal parts of a layer: rank `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def block(self, count: int) -> int:
        """Tensors of every rank but the last ones, which may have fewer or none."""
        return -(-count // self.size)

    def rows(self, count: int, height: int = 1) -> range:
        """This rank's part of `count` things, each of `height` rows."""
        block = self.block(count)
        first, end = (min(count, block * rank) for rank in (self.rank, self.rank + 1))
        return range(first * height, end * height)
