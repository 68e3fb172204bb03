"""Decides which expert workers load which experts. Pure: no clock, no I/O, no torch.

Experts stay where they are as far as possible: only those move whose worker is gone, or that a new worker needs for an
equal share.
Legend: E experts of all layers, layer by layer; W workers, ordered by name and ordinal; L layers.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.membership.worker_order import ordinal
from services.router.placement.table_view import Placed, TableView

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the policy sees it. `capacity`: experts it may load, 0 = any number. A draining one is emptied."""

    worker_id: str
    draining: bool = False
    capacity: int = 0


def place(
    experts: int,
    layers: int,
    workers: Sequence[WorkerView],
    replicas: int,
    current: TableView | None = None,
) -> TableView:
    """Returns a table for `layers` x `experts` over `workers`, as near to `current` as an equal share allows.

    Every expert is on `replicas` distinct workers when so many have capacity, and on one before any is on two.
    Workers with capacity to spare differ by at most one expert. Draining workers keep only what fits nowhere else.
    """
    items = layers * experts
    workers = sorted(workers, key=lambda worker: ordinal(worker.worker_id))
    ids = [worker.worker_id for worker in workers]
    fits = current is not None and (current.layers, current.experts) == (layers, experts)
    before_EW = current.columns(ids) if current is not None and fits else np.zeros((items, len(ids)), dtype=np.bool_)
    wanted_E = _replica_counts(items, workers, replicas)
    quota_W = _quotas(workers, int(wanted_E.sum()), items, before_EW.sum(axis=0).tolist())
    draft = _Draft(layers, quota_W, wanted_E, before_EW)
    draft.drop_surplus()
    draft.shed()
    draft.fill()
    return TableView.of(layers, experts, ids, draft.placed_EW)


def _capacity(worker: WorkerView, items: int) -> int:
    return min(worker.capacity or items, items)


def _replica_counts(items: int, workers: Sequence[WorkerView], replicas: int) -> Counts:
    """Returns how often each expert is placed: once before any twice; the first ones when capacity is short."""
    staying = [worker for worker in workers if not worker.draining]
    available = sum(_capacity(worker, items) for worker in staying)
    wanted_E = np.zeros(items, dtype=np.int64)
    once = min(items, sum(_capacity(worker, items) for worker in workers))
    wanted_E[:once] = 1
    available -= once
    for _ in range(min(replicas, len(staying)) - 1):
        wanted_E[: max(0, available)] += 1
        available -= items
    return wanted_E


def _quotas(workers: Sequence[WorkerView], total: int, items: int, counts: Sequence[int]) -> list[int]:
    """Returns each worker's share of `total` replicas: equal up to capacity, staying workers before draining ones.

    What does not divide goes to the workers with the most experts now.
    """
    quota_W = [0] * len(workers)
    for draining in (False, True):
        open_ = [column for column, worker in enumerate(workers) if worker.draining is draining]
        left = total - sum(quota_W)
        while full := [column for column in open_ if _capacity(workers[column], items) <= left // len(open_)]:
            for column in full:
                quota_W[column] = _capacity(workers[column], items)
                left -= quota_W[column]
            open_ = [column for column in open_ if column not in full]
        if open_:
            share, extra = divmod(left, len(open_))
            for rank, column in enumerate(sorted(open_, key=lambda column: -counts[column])):
                quota_W[column] = share + (rank < extra)
    return quota_W


class _Draft:
    """A table while `place` makes it: from the current one, without what workers with no quota have."""

    def __init__(self, layers: int, quota_W: list[int], wanted_E: Counts, before_EW: Placed) -> None:
        self._layers, self._experts = layers, len(wanted_E) // layers
        self._quota_W, self._wanted_E = quota_W, wanted_E
        self.placed_EW = before_EW & (np.array(quota_W, dtype=np.int64) > 0)
        self._count_W: list[int] = self.placed_EW.sum(axis=0).tolist()
        self._have_E: Counts = self.placed_EW.sum(axis=1)

    def drop_surplus(self) -> None:
        """Removes replicas that are too many, from the workers that are furthest above their quotas."""
        for item in np.flatnonzero(self._have_E > self._wanted_E).tolist():
            holders = np.flatnonzero(self.placed_EW[item]).tolist()
            while self._have_E[item] > self._wanted_E[item]:
                most = max(holders, key=lambda column: self._count_W[column] - self._quota_W[column])
                holders.remove(most)
                self._set(item, most, False)

    def shed(self) -> None:
        """Removes what workers have above their quotas, from the layers of which they have the most.

        Experts that another worker has shed already are spared: the workers with room could not take both replicas.
        """
        for column, quota in enumerate(self._quota_W):
            above = self._count_W[column] - quota
            if above <= 0:
                continue
            for layer, count in enumerate(_from_the_highest(self._in_layers(column), above)):
                if count:
                    first = layer * self._experts
                    here = np.flatnonzero(self.placed_EW[first : first + self._experts, column]) + first
                    spared = self._have_E[here] < self._wanted_E[here]
                    for item in here[np.argsort(spared, kind="stable")][: int(count)].tolist():
                        self._set(item, column, False)

    def fill(self) -> None:
        """Places missing replicas where the layer has the fewest experts, so that its rows spread; then by fill."""
        missing_E = self._wanted_E - self._have_E
        for layer in np.flatnonzero(missing_E.reshape(self._layers, -1).any(axis=1)).tolist():
            rows = range(layer * self._experts, (layer + 1) * self._experts)
            in_layer_W = self.placed_EW[rows.start : rows.stop].sum(axis=0).tolist()
            open_ = [
                self._rank(column, in_layer_W[column]) for column in range(len(self._quota_W)) if self._room(column)
            ]
            heapq.heapify(open_)
            for item in rows:
                for _ in range(int(missing_E[item])):
                    self._add(item, open_)

    def _add(self, item: int, open_: list[tuple[int, float, int]]) -> None:
        """Places a replica. `open_` is a heap of the workers with room, by their experts of the layer and their fill.

        When every worker with room has the item already, one of them takes another expert from a worker that has not,
        which then takes the item.
        """
        passed = []
        while open_:
            in_layer, _, column = heapq.heappop(open_)
            if not self._room(column):
                continue
            if self.placed_EW[item, column]:
                passed.append(self._rank(column, in_layer))
                continue
            self._set(item, column, True)
            passed.append(self._rank(column, in_layer + 1))
            break
        else:
            self._exchange(item, [column for _, _, column in passed])
        for each in passed:
            heapq.heappush(open_, each)

    def _exchange(self, item: int, open_: Sequence[int]) -> None:
        for full in np.flatnonzero(~self.placed_EW[item]).tolist():
            for taker in open_:
                others = np.flatnonzero(self.placed_EW[:, full] & ~self.placed_EW[:, taker])
                if len(others):
                    moved = int(others[0])
                    self._set(moved, full, False)
                    self._set(moved, taker, True)
                    self._set(item, full, True)
                    return

    def _room(self, column: int) -> bool:
        return self._count_W[column] < self._quota_W[column]

    def _rank(self, column: int, in_layer: int) -> tuple[int, float, int]:
        return in_layer, self._count_W[column] / self._quota_W[column], column

    def _in_layers(self, column: int) -> Counts:
        """How many experts of each layer a worker has, [L]."""
        found: Counts = self.placed_EW[:, column].reshape(self._layers, -1).sum(axis=1)
        return found

    def _set(self, item: int, column: int, placed: bool) -> None:
        self.placed_EW[item, column] = placed
        by = 1 if placed else -1
        self._count_W[column] += by
        self._have_E[item] += by


def _from_the_highest(count_L: Counts, total: int) -> Counts:
    """How much to take from each count, `total` together, so that the highest of what is left is as low as can be."""
    low, high = 0, int(count_L.max())
    while low < high:  # the lowest level above which there is no more than `total`
        level = (low + high) // 2
        low, high = (low, level) if np.maximum(count_L - level, 0).sum() <= total else (level + 1, high)
    taken_L = np.maximum(count_L - low, 0)
    at_level = np.flatnonzero((count_L - taken_L == low) & (count_L > 0))
    taken_L[at_level[: total - int(taken_L.sum())]] += 1
    return taken_L
