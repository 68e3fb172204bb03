"""Which expert workers hold which experts. Pure: no clock, no I/O, no torch.

What is placed well stays where it is; only what lost its worker, or what a newcomer needs for an equal share, moves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Item = tuple[int, int]  # (layer, expert)


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the policy sees it. `capacity`: experts it may hold, 0 = any number. A draining one is to leave."""

    worker_id: str
    draining: bool = False
    capacity: int = 0


@dataclass(frozen=True, slots=True)
class TableView:
    """layers[layer][expert] = ids of the workers that hold it, in order of their ordinals."""

    layers: tuple[tuple[tuple[str, ...], ...], ...]

    def items(self) -> Iterator[tuple[Item, tuple[str, ...]]]:
        for layer, experts in enumerate(self.layers):
            for expert, holders in enumerate(experts):
                yield (layer, expert), holders

    def of(self, worker_id: str) -> set[Item]:
        """What one worker holds."""
        return {item for item, holders in self.items() if worker_id in holders}

    @property
    def missing(self) -> int:
        """Experts that nobody holds."""
        return sum(not holders for _, holders in self.items())


def ordinal(worker_id: str) -> tuple[str, int]:
    """The order of workers: by name, then by the number at its end, as a StatefulSet counts."""
    match = re.fullmatch(r"(.*?)(\d{0,18})", worker_id, re.DOTALL)
    assert match
    return match[1], int(match[2] or 0)


def place(
    experts: int,
    layers: int,
    workers: Sequence[WorkerView],
    replicas: int,
    current: TableView | None = None,
    load: Mapping[Item, float] | None = None,
) -> TableView:
    """A table for `layers` x `experts` over `workers`, as near to `current` as an equal share allows.

    Every expert is on `replicas` distinct workers when there are so many with room, and on one before any is on two.
    Workers with room differ by at most one expert. Draining workers keep only what fits nowhere else.
    `load` (any unit, by expert) settles who gets an extra replica and which worker with room takes what.
    """
    items = [(layer, expert) for layer in range(layers) for expert in range(experts)]
    known = set(items)
    before = {item: holders for item, holders in current.items() if item in known} if current else {}
    heavy = sorted(items, key=lambda item: -load.get(item, 0.0)) if load else items
    wanted = _replicas(heavy, workers, replicas)
    board = _Board(load or {}, _quotas(workers, sum(wanted.values()), len(items), before))
    board.keep(before, wanted)
    for item in heavy:
        for _ in range(wanted.get(item, 0) - len(board.holders(item))):
            board.give(item)
    return board.table(layers, experts)


def _room(worker: WorkerView, items: int) -> int:
    return min(worker.capacity or items, items)


def _replicas(heavy: Sequence[Item], workers: Sequence[WorkerView], replicas: int) -> dict[Item, int]:
    """How often each expert is placed: once before any twice, the heaviest first when room is short."""
    staying = [worker for worker in workers if not worker.draining]
    room = sum(_room(worker, len(heavy)) for worker in staying)
    everywhere = sum(_room(worker, len(heavy)) for worker in workers)
    counts = dict.fromkeys(heavy[:everywhere], 1)
    room -= len(counts)
    for _ in range(min(replicas, len(staying)) - 1):
        for item in heavy[: max(0, room)]:
            counts[item] += 1
        room -= len(heavy)
    return counts


def _quotas(
    workers: Sequence[WorkerView], total: int, items: int, before: Mapping[Item, Collection[str]]
) -> dict[str, int]:
    """Each worker's share of `total` replicas: equal up to capacity; who holds more now gets what does not divide."""
    has = dict.fromkeys((worker.worker_id for worker in workers), 0)
    for holders in before.values():
        for worker_id in holders:
            if worker_id in has:
                has[worker_id] += 1
    quotas: dict[str, int] = {}
    for leaving in (False, True):
        group = [worker for worker in workers if worker.draining is leaving]
        quotas |= _level(group, total - sum(quotas.values()), items, has)
    return quotas


def _level(group: Sequence[WorkerView], total: int, items: int, has: Mapping[str, int]) -> dict[str, int]:
    """Fills workers to one level; one that is full at a lower level keeps its room."""
    open_, quotas = sorted(group, key=lambda worker: ordinal(worker.worker_id)), {}
    while full := [worker for worker in open_ if _room(worker, items) <= total // len(open_)]:
        for worker in full:
            quotas[worker.worker_id] = _room(worker, items)
        total -= sum(_room(worker, items) for worker in full)
        open_ = [worker for worker in open_ if worker not in full]
    if open_:
        share, extra = divmod(total, len(open_))
        by_holding = sorted(open_, key=lambda worker: -has[worker.worker_id])
        for rank, worker in enumerate(by_holding):
            quotas[worker.worker_id] = share + (rank < extra)
    return quotas


@dataclass
class _Board:
    """The table while it is made."""

    load: Mapping[Item, float]
    quota: dict[str, int]
    assigned: dict[str, set[Item]] = field(default_factory=dict)
    weight: dict[str, float] = field(default_factory=dict)
    in_layer: dict[tuple[str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.quota = {worker_id: self.quota[worker_id] for worker_id in sorted(self.quota, key=ordinal)}
        self.assigned = {worker_id: set() for worker_id in self.quota}
        self.weight = dict.fromkeys(self.quota, 0.0)

    def holders(self, item: Item) -> tuple[str, ...]:
        return tuple(worker_id for worker_id, assigned in self.assigned.items() if item in assigned)

    def keep(self, before: Mapping[Item, Collection[str]], wanted: Mapping[Item, int]) -> None:
        """Leaves things where they are, then takes off what is too much: replicas nobody wants, and above the quota."""
        for item, holders in before.items():
            for worker_id in holders:
                if self.quota.get(worker_id):
                    self._add(worker_id, item)
        for item in before:
            while len(holders := self.holders(item)) > wanted.get(item, 0):
                self._take(
                    max(holders, key=lambda worker_id: len(self.assigned[worker_id]) - self.quota[worker_id]), item
                )
        for worker_id, quota in self.quota.items():
            while len(self.assigned[worker_id]) > quota:
                self._take(worker_id, max(self.assigned[worker_id], key=lambda item: self._spare(worker_id, item)))

    def give(self, item: Item) -> None:
        """Places one more copy; when only holders of the item have room, one of them gets something else instead."""
        open_ = [worker_id for worker_id, quota in self.quota.items() if len(self.assigned[worker_id]) < quota]
        fit = [worker_id for worker_id in open_ if item not in self.assigned[worker_id]]
        if fit:
            self._add(min(fit, key=lambda worker_id: self._burden(worker_id, item)), item)
            return
        for giver, assigned in self.assigned.items():
            if item in assigned:
                continue
            for taker in open_:
                if others := assigned - self.assigned[taker]:
                    swapped = min(others)
                    self._take(giver, swapped)
                    self._add(taker, swapped)
                    self._add(giver, item)
                    return

    def table(self, layers: int, experts: int) -> TableView:
        rows: list[list[list[str]]] = [[[] for _ in range(experts)] for _ in range(layers)]
        for worker_id, assigned in self.assigned.items():
            for layer, expert in assigned:
                rows[layer][expert].append(worker_id)
        return TableView(tuple(tuple(tuple(holders) for holders in row) for row in rows))

    def _burden(self, worker_id: str, item: Item) -> tuple[int, float, float]:
        """The least gets the item: few of its layer, so that a layer's rows spread; then little load; then room."""
        full = len(self.assigned[worker_id]) / self.quota[worker_id]
        return self.in_layer.get((worker_id, item[0]), 0), self.weight[worker_id], full

    def _spare(self, worker_id: str, item: Item) -> tuple[int, Item]:
        return self.in_layer[worker_id, item[0]], item

    def _add(self, worker_id: str, item: Item) -> None:
        self.assigned[worker_id].add(item)
        self._count(worker_id, item, 1)

    def _take(self, worker_id: str, item: Item) -> None:
        self.assigned[worker_id].remove(item)
        self._count(worker_id, item, -1)

    def _count(self, worker_id: str, item: Item, by: int) -> None:
        self.weight[worker_id] += by * self.load.get(item, 0.0)
        key = worker_id, item[0]
        self.in_layer[key] = self.in_layer.get(key, 0) + by
