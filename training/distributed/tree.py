"""Sums in one fixed binary tree: neighbours first, whoever computed them and whenever they came."""

from __future__ import annotations

from threading import Lock

from torch import Tensor


def tree_sum(parts: list[Tensor]) -> Tensor:
    """Returns the sum of the parts. An odd last one moves up alone."""
    while len(parts) > 1:
        sums = [left + right for left, right in zip(parts[::2], parts[1::2], strict=False)]
        parts = sums + parts[2 * len(sums) :]
    return parts[0]


class TreeSum:
    """Adds lists of tensors, one for each leaf, in the order of `tree_sum`, and forgets them as soon as it can.

    Threads may add in any order. What is added belongs to the sum, which writes into it.
    """

    def __init__(self, leaves: int) -> None:
        self.leaves = leaves
        self._waiting: dict[tuple[int, int], list[Tensor]] = {}  # by level and place
        self._root: list[Tensor] | None = None
        self._lock = Lock()

    def add(self, leaf: int, values: list[Tensor]) -> None:
        level, place, count = 0, leaf, self.leaves
        while count > 1:
            if place ^ 1 < count:
                with self._lock:
                    other = self._waiting.pop((level, place ^ 1), None)
                    if other is None:
                        self._waiting[level, place] = values
                        return
                left, right = (other, values) if place & 1 else (values, other)
                values = [one.add_(two) for one, two in zip(left, right, strict=True)]
            level, place, count = level + 1, place >> 1, (count + 1) >> 1
        self._root = values

    def total(self) -> list[Tensor]:
        """Returns the sums; every leaf must have been added."""
        assert self._root is not None
        return self._root
