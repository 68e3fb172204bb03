"""A placement as the policy sees it: which worker has which expert. Pure.

Legend: E experts of all layers, layer by layer; N some of them; W workers, ordered by name and ordinal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.membership.worker_order import ordinal

Items = NDArray[np.int64]  # [N] experts, each by its index among all
Placed = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class TableView:
    """Which of `worker_ids` has a replica of which expert. Two are equal when every worker has the same experts.

    `worker_ids` are in the order of their ordinals, each with at least one expert. `placed_EW` is not changed.
    """

    layers: int
    experts: int
    worker_ids: tuple[str, ...]
    placed_EW: Placed

    @classmethod
    def of(cls, layers: int, experts: int, worker_ids: Sequence[str], placed_EW: Placed) -> TableView:
        """Makes a view from columns in any order; workers without experts are left out."""
        used = np.flatnonzero(placed_EW.any(axis=0)).tolist()
        order = sorted(used, key=lambda column: ordinal(worker_ids[column]))
        return cls(layers, experts, tuple(worker_ids[column] for column in order), placed_EW[:, order])

    @classmethod
    def of_loaded(cls, loaded: Mapping[str, Items], layers: int, experts: int) -> TableView:
        """Makes the view of what workers say they have loaded; experts that the model does not have are left out."""
        placed_EW = np.zeros((layers * experts, len(loaded)), dtype=np.bool_)
        for column, item_N in enumerate(loaded.values()):
            placed_EW[item_N[item_N < layers * experts], column] = True
        return cls.of(layers, experts, list(loaded), placed_EW)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TableView)
            and (self.layers, self.experts, self.worker_ids) == (other.layers, other.experts, other.worker_ids)
            and np.array_equal(self.placed_EW, other.placed_EW)
        )

    def columns(self, worker_ids: Sequence[str]) -> Placed:
        """What these workers have, [E, W]; False throughout for one that has nothing."""
        found = np.zeros((len(self.placed_EW), len(worker_ids)), dtype=np.bool_)
        index = {worker_id: column for column, worker_id in enumerate(self.worker_ids)}
        here = [(to, index[worker_id]) for to, worker_id in enumerate(worker_ids) if worker_id in index]
        if here:
            to, column = zip(*here, strict=True)
            found[:, to] = self.placed_EW[:, column]
        return found

    @property
    def counts(self) -> dict[str, int]:
        """How many experts each worker has; without those that have none."""
        return dict(zip(self.worker_ids, self.placed_EW.sum(axis=0).tolist(), strict=True))

    @property
    def missing(self) -> int:
        """How many experts have no replica."""
        return len(self.placed_EW) - int(self.placed_EW.any(axis=1).sum())
