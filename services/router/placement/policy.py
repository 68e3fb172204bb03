"""Decides which expert workers load which experts. Pure: no clock, no I/O, no torch.

Experts stay where they are as far as possible: only those move whose worker is gone, or that a new worker needs for an
equal share.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Item = tuple[int, int]  # (layer, expert)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the policy sees it. `capacity`: experts it may load, 0 = any number. A draining one is emptied."""

    worker_id: str
    draining: bool = False
    capacity: int = 0


@dataclass(frozen=True, slots=True)
class TableView:
    """A placement: layers[layer][expert] = ids of the workers with a replica, in order of their ordinals."""

    layers: tuple[tuple[tuple[str, ...], ...], ...]

    def items(self) -> Iterator[tuple[Item, tuple[str, ...]]]:
        for layer, experts in enumerate(self.layers):
            for expert, replicas in enumerate(experts):
                yield (layer, expert), replicas

    def of(self, worker_id: str) -> set[Item]:
        """Returns the experts placed on one worker."""
        return {item for item, replicas in self.items() if worker_id in replicas}

    @property
    def missing(self) -> int:
        """How many experts have no replica."""
        return sum(not replicas for _, replicas in self.items())


def ordinal(worker_id: str) -> tuple[str, int]:
    """Returns the sort key of a worker: its name, then the number at the name's end, as a StatefulSet counts."""
    match = re.fullmatch(r"(.*?)(\d{0,18})", worker_id, re.DOTALL)
    assert match
    return match[1], int(match[2] or 0)


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
    items = [(layer, expert) for layer in range(layers) for expert in range(experts)]
    known = set(items)
    before = {item: placed for item, placed in current.items() if item in known} if current else {}
    wanted = _replica_counts(items, workers, replicas)
    draft = _Draft(_quotas(workers, sum(wanted.values()), len(items), before))
    draft.keep(before, wanted)
    for item in items:
        for _ in range(wanted.get(item, 0) - len(draft.replicas(item))):
            draft.add_replica(item)
    return draft.table(layers, experts)


def _capacity(worker: WorkerView, items: int) -> int:
    return min(worker.capacity or items, items)


def _replica_counts(items: Sequence[Item], workers: Sequence[WorkerView], replicas: int) -> dict[Item, int]:
    """Returns how often each expert is placed: once before any twice; the first ones when capacity is short."""
    staying = [worker for worker in workers if not worker.draining]
    available = sum(_capacity(worker, len(items)) for worker in staying)
    with_draining = sum(_capacity(worker, len(items)) for worker in workers)
    counts = dict.fromkeys(items[:with_draining], 1)
    available -= len(counts)
    for _ in range(min(replicas, len(staying)) - 1):
        for item in items[: max(0, available)]:
            counts[item] += 1
        available -= len(items)
    return counts


def _quotas(
    workers: Sequence[WorkerView], total: int, items: int, before: Mapping[Item, Collection[str]]
) -> dict[str, int]:
    """Returns each worker's share of `total` replicas: equal up to capacity, staying workers before draining ones.

    What does not divide goes to the workers with the most experts now.
    """
    counts = dict.fromkeys((worker.worker_id for worker in workers), 0)
    for replicas in before.values():
        for worker_id in replicas:
            if worker_id in counts:
                counts[worker_id] += 1
    quotas: dict[str, int] = {}
    for draining in (False, True):
        group = [worker for worker in workers if worker.draining is draining]
        quotas |= _equal_shares(group, total - sum(quotas.values()), items, counts)
    return quotas


def _equal_shares(group: Sequence[WorkerView], total: int, items: int, counts: Mapping[str, int]) -> dict[str, int]:
    """Divides `total` equally over the group; a worker with less capacity than that gets as much as it can load."""
    open_, quotas = sorted(group, key=lambda worker: ordinal(worker.worker_id)), {}
    while full := [worker for worker in open_ if _capacity(worker, items) <= total // len(open_)]:
        for worker in full:
            quotas[worker.worker_id] = _capacity(worker, items)
        total -= sum(_capacity(worker, items) for worker in full)
        open_ = [worker for worker in open_ if worker not in full]
    if open_:
        share, extra = divmod(total, len(open_))
        by_count = sorted(open_, key=lambda worker: -counts[worker.worker_id])
        for rank, worker in enumerate(by_count):
            quotas[worker.worker_id] = share + (rank < extra)
    return quotas


@dataclass
class _Draft:
    """A table while `place` makes it."""

    quota: dict[str, int]
    assigned: dict[str, set[Item]] = field(default_factory=dict)
    in_layer: dict[tuple[str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.quota = {worker_id: self.quota[worker_id] for worker_id in sorted(self.quota, key=ordinal)}
        self.assigned = {worker_id: set() for worker_id in self.quota}

    def replicas(self, item: Item) -> tuple[str, ...]:
        return tuple(worker_id for worker_id, assigned in self.assigned.items() if item in assigned)

    def keep(self, before: Mapping[Item, Collection[str]], wanted: Mapping[Item, int]) -> None:
        """Starts from the current table, then removes what is too much: surplus replicas and experts above a quota."""
        for item, current in before.items():
            for worker_id in current:
                if self.quota.get(worker_id):
                    self._add(worker_id, item)
        for item in before:
            while len(current := self.replicas(item)) > wanted.get(item, 0):
                self._remove(
                    max(current, key=lambda worker_id: len(self.assigned[worker_id]) - self.quota[worker_id]), item
                )
        for worker_id, quota in self.quota.items():
            while len(self.assigned[worker_id]) > quota:
                self._remove(worker_id, max(self.assigned[worker_id], key=lambda item: self._surplus(worker_id, item)))

    def add_replica(self, item: Item) -> None:
        """Places one more replica.

        When every worker with capacity has the item already, one of them takes another expert from a worker that has
        not, which then takes the item.
        """
        open_ = [worker_id for worker_id, quota in self.quota.items() if len(self.assigned[worker_id]) < quota]
        fit = [worker_id for worker_id in open_ if item not in self.assigned[worker_id]]
        if fit:
            self._add(min(fit, key=lambda worker_id: self._cost(worker_id, item)), item)
            return
        for full, assigned in self.assigned.items():
            if item in assigned:
                continue
            for taker in open_:
                if others := assigned - self.assigned[taker]:
                    moved = min(others)
                    self._remove(full, moved)
                    self._add(taker, moved)
                    self._add(full, item)
                    return

    def table(self, layers: int, experts: int) -> TableView:
        rows: list[list[list[str]]] = [[[] for _ in range(experts)] for _ in range(layers)]
        for worker_id, assigned in self.assigned.items():
            for layer, expert in assigned:
                rows[layer][expert].append(worker_id)
        return TableView(tuple(tuple(tuple(replicas) for replicas in row) for row in rows))

    def _cost(self, worker_id: str, item: Item) -> tuple[int, float]:
        """Orders the workers for an item: few experts of its layer, so that its rows spread; then fill."""
        fill = len(self.assigned[worker_id]) / self.quota[worker_id]
        return self.in_layer.get((worker_id, item[0]), 0), fill

    def _surplus(self, worker_id: str, item: Item) -> tuple[int, Item]:
        """Orders a worker's experts for removal: those of the layer of which it has the most come first."""
        return self.in_layer[worker_id, item[0]], item

    def _add(self, worker_id: str, item: Item) -> None:
        self.assigned[worker_id].add(item)
        self._count(worker_id, item, 1)

    def _remove(self, worker_id: str, item: Item) -> None:
        self.assigned[worker_id].remove(item)
        self._count(worker_id, item, -1)

    def _count(self, worker_id: str, item: Item, by: int) -> None:
        key = worker_id, item[0]
        self.in_layer[key] = self.in_layer.get(key, 0) + by
