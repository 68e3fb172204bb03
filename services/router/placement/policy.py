"""Decides which expert workers load which experts. Pure: no clock, no I/O, no torch.

Experts stay where they are as far as possible: only those move whose worker is gone, or that a new worker needs for an
equal share, and, where the load is known, those whose move makes the slowest worker of a layer faster.
Legend: E experts of all layers, layer by layer; W workers, ordered by name and ordinal; L layers.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.membership.worker_order import ordinal
from services.router.placement.balance import balance
from services.router.placement.limits import Limits
from services.router.placement.load import Floats, Load
from services.router.placement.quotas import Counts, Rooms, equal_quotas, kept_extras, kept_quotas, replica_counts
from services.router.placement.table_view import Placed, TableView


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the policy sees it. `capacity`: experts it may load, 0 = any number. A draining one is emptied.

    `host` and `zone`: where it runs, empty = unknown. `frozen`: balancing gives it nothing; it may lose experts.
    """

    worker_id: str
    draining: bool = False
    capacity: int = 0
    host: str = ""
    zone: str = ""
    frozen: bool = False


def place(
    experts: int,
    layers: int,
    workers: Sequence[WorkerView],
    replicas: int,
    current: TableView | None = None,
    load: Load | None = None,
    extra: int = 0,
    moves: int = 0,
) -> TableView:
    """Returns a table for `layers` x `experts` over `workers`, as near to `current` as an equal share allows.

    Every expert is on `replicas` distinct workers when so many have capacity, and on one before any is on two; replicas
    are in distinct zones where zones allow that for all, else on distinct hosts as far as that is known and possible.
    Without a load, workers with capacity to spare differ by
    at most one expert. Draining workers keep only what fits nowhere else.
    With a load, what has to be placed goes where it makes the least difference to the slowest worker. When nothing has
    to be loaded for that, balancing may load `moves` experts, and give hot experts up to `extra` more replicas in each
    layer. Raises ValueError when the load is of another shape.
    """
    items = layers * experts
    workers = sorted(workers, key=lambda worker: ordinal(worker.worker_id))
    ids = [worker.worker_id for worker in workers]
    fits = current is not None and (current.layers, current.experts) == (layers, experts)
    before_EW = current.columns(ids) if current is not None and fits else np.zeros((items, len(ids)), dtype=np.bool_)
    counts = before_EW.sum(axis=0).tolist()
    rooms = Rooms(
        [min(w.capacity or items, items) for w in workers], [w.draining for w in workers], _places(workers, replicas)
    )
    base_E = replica_counts(items, rooms, replicas)
    rows_E, speed_W = np.zeros(items), np.ones(len(ids))
    if load is None:
        quota_W, wanted_E = equal_quotas(rooms, int(base_E.sum()), counts), base_E
    else:
        rows_E, speed_W = load.rows(items), load.speeds(ids)
        have_E = before_EW[:, ~np.array(rooms.draining_W, dtype=np.bool_)].sum(axis=1)
        room = sum(rooms.staying) - int(base_E.sum())
        wanted_E = base_E + kept_extras(have_E, base_E, rows_E, layers, extra, room)
        totals = int(base_E.sum()), int(base_E.sum()) + max(0, min(layers * extra, room))
        fewest_W, most_W = (equal_quotas(rooms, total, [0] * len(ids)) for total in totals)
        quota_W = kept_quotas(rooms, int(wanted_E.sum()), counts, fewest_W, most_W)
    draft = _Draft(layers, quota_W, wanted_E, before_EW, rows_E, speed_W, rooms.host_W)
    draft.drop_surplus()
    if load is not None:  # from what is left: else dropping replicas would make workers load others
        draft.quota_W = kept_quotas(rooms, int(wanted_E.sum()), draft.count_W, fewest_W, most_W)
    draft.shed()
    draft.fill()
    placed_EW = draft.placed_EW
    if load is not None and placed_EW.any(axis=1).all() and not (placed_EW & ~before_EW).any():
        limits = Limits.of(rooms, fewest_W, most_W, [w.frozen for w in workers], speed_W)
        placed_EW = balance(placed_EW, layers, rows_E, load.counted_s, limits, base_E, extra, moves)
    return TableView.of(layers, experts, ids, placed_EW)


def _places(workers: Sequence[WorkerView], replicas: int) -> list[int]:
    """Returns a number for each worker's zone or host: what replicas of an expert are to be apart by.

    By zone if each staying worker's is known and none has so large a share of them that at equal shares it needed two
    replicas of some expert: replicas in distinct zones are on distinct hosts. A worker whose host is unknown has one of
    its own.
    """
    staying = [worker.zone for worker in workers if not worker.draining]
    largest = max(map(staying.count, set(staying)), default=0)
    by_zone = replicas > 1 and "" not in staying and largest * replicas <= len(staying)
    names = [(worker.zone if by_zone else worker.host) or ("", column) for column, worker in enumerate(workers)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


Rank = tuple[float, int, float, int]  # load, experts of the layer, fill, column: the lowest is filled first


class _Draft:
    """A table while `place` makes it: from the current one, without what workers with no quota have.

    `quota_W`: how many experts each worker is to have; `count_W`: how many it has.
    """

    def __init__(
        self,
        layers: int,
        quota_W: list[int],
        wanted_E: Counts,
        before_EW: Placed,
        rows_E: Floats,
        speed_W: Floats,
        host_W: Sequence[int],
    ) -> None:
        self._layers, self._experts = layers, len(wanted_E) // layers
        self._share_E = rows_E / np.maximum(wanted_E, 1)
        self._speed_W, self._host_W = speed_W, host_W
        self._hosts = len(set(host_W))
        self._speed_sum = max(float(speed_W[np.array(quota_W, dtype=np.int64) > 0].sum()), 1e-9)
        self._layer_W, self._load_W, self._typical = [0], [0.0], 0.0  # of the layer that `fill` fills
        self.quota_W, self._wanted_E = quota_W, wanted_E
        self._before_EW = before_EW
        self.placed_EW = before_EW & (np.array(quota_W, dtype=np.int64) > 0)
        self.count_W: list[int] = self.placed_EW.sum(axis=0).tolist()
        self._have_E: Counts = self.placed_EW.sum(axis=1)

    def drop_surplus(self) -> None:
        """Removes replicas that are too many, from the workers that are furthest above their quotas."""
        for item in np.flatnonzero(self._have_E > self._wanted_E).tolist():
            holders = np.flatnonzero(self.placed_EW[item]).tolist()
            while self._have_E[item] > self._wanted_E[item]:
                hosts = [self._host_W[column] for column in holders]
                most = max(
                    holders,
                    key=lambda c: (hosts.count(self._host_W[c]) > 1, self.count_W[c] - self.quota_W[c]),
                )
                holders.remove(most)
                self._set(item, most, False)

    def shed(self) -> None:
        """Removes what workers have above their quotas, from the layers of which they have the most.

        Experts that another worker has shed already are spared: the workers with room could not take both replicas.
        Of the others it sheds those whose rows bring it nearest to its share of the layer's.
        """
        for column, quota in enumerate(self.quota_W):
            above = self.count_W[column] - quota
            if above <= 0:
                continue
            for layer, count in enumerate(_from_the_highest(self._in_layers(column), above)):
                if count:
                    first = layer * self._experts
                    here = np.flatnonzero(self.placed_EW[first : first + self._experts, column]) + first
                    spared = self._have_E[here] < self._wanted_E[here]
                    off = np.abs(self._share_E[here] - self._above_share(layer, column) / count)
                    for item in here[np.lexsort((off, spared))][: int(count)].tolist():
                        self._set(item, column, False)

    def fill(self) -> None:
        """Places missing replicas, the hottest first, where they make the layer's slowest worker least slow.

        Without rows: where the layer has the fewest experts, so that its rows spread; then by fill.
        """
        missing_E = self._wanted_E - self._have_E
        for layer in np.flatnonzero(missing_E.reshape(self._layers, -1).any(axis=1)).tolist():
            first = layer * self._experts
            rows = slice(first, first + self._experts)
            self._layer_W = self.placed_EW[rows].sum(axis=0).tolist()
            self._load_W = (self._share_E[rows] @ self.placed_EW[rows]).tolist()
            missing = np.flatnonzero(missing_E[rows]) + first
            self._typical = float(self._share_E[missing].mean())
            open_ = [self._rank(column) for column in range(len(self.quota_W)) if self._room(column)]
            heapq.heapify(open_)
            for item in missing[np.argsort(-self._share_E[missing], kind="stable")].tolist():
                for _ in range(int(missing_E[item])):
                    self._add(item, open_)

    def _add(self, item: int, open_: list[Rank]) -> None:
        """Places a replica on the first of `open_`, a heap of the workers with room, that can take it.

        First choice is one on a host without a replica, then any. When every worker with room has the item already, one
        of them takes another expert from a worker that has not, which then takes the item.
        """
        passed: list[Rank] = []
        taken = self._taken_hosts(item)
        second = -1  # the first that can take it, on a host that has a replica
        while open_:
            column = open_[0][-1]
            if not self._room(column):
                heapq.heappop(open_)
                continue
            if not self.placed_EW[item, column]:
                if self._host_W[column] not in taken:
                    self._take(item, column)
                    heapq.heapreplace(open_, self._rank(column))
                    break
                second = column if second < 0 else second
            passed.append(heapq.heappop(open_))
        else:
            if second >= 0:
                self._take(self._make_way(item, second, taken), second)
                passed = [rank if rank[-1] != second else self._rank(second) for rank in passed]
            else:
                self._exchange(item, [rank[-1] for rank in passed])
        for each in passed:
            heapq.heappush(open_, each)

    def _make_way(self, item: int, column: int, taken: set[int]) -> int:
        """Places an item on a host that is not `taken`, in place of one that is new there; returns what has no place.

        That is what the worker at `column` can take, or the item itself when there is no such exchange.
        """
        first = item - item % self._experts
        rows = slice(first, first + self._experts)
        host_W = np.array(self._host_W)
        to_W = ~np.isin(host_W, list(taken)) & ~self.placed_EW[item]
        beside_E = np.any(self.placed_EW[rows][:, host_W == host_W[column]], axis=1)
        may_EW = self.placed_EW[rows] & ~self._before_EW[rows] & to_W & ~beside_E[:, None]
        if not may_EW.any():
            return item
        other, to = np.unravel_index(int(may_EW.argmax()), may_EW.shape)
        self._set(first + int(other), int(to), False)
        self._set(item, int(to), True)
        self._load_W[int(to)] += float(self._share_E[item] - self._share_E[first + int(other)])
        return first + int(other)

    def _take(self, item: int, column: int) -> None:
        self._set(item, column, True)
        self._layer_W[column] += 1
        self._load_W[column] += float(self._share_E[item])

    def _taken_hosts(self, item: int) -> set[int]:
        """Hosts with a replica; none when workers do not share hosts, or when no host is without one."""
        if self._hosts == len(self._host_W):
            return set()
        taken = {self._host_W[column] for column in np.flatnonzero(self.placed_EW[item]).tolist()}
        return taken if len(taken) < self._hosts else set()

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
        return self.count_W[column] < self.quota_W[column]

    def _rank(self, column: int) -> Rank:
        load = (self._load_W[column] + self._typical) / float(self._speed_W[column])
        return load, self._layer_W[column], self.count_W[column] / self.quota_W[column], column

    def _above_share(self, layer: int, column: int) -> float:
        """By how many rows a worker is above its share of a layer."""
        rows = slice(layer * self._experts, (layer + 1) * self._experts)
        has = float(self._share_E[rows] @ self.placed_EW[rows, column])
        fair = float(self._share_E[rows] @ self._wanted_E[rows]) * float(self._speed_W[column]) / self._speed_sum
        return max(0.0, has - fair)

    def _in_layers(self, column: int) -> Counts:
        """How many experts of each layer a worker has, [L]."""
        found: Counts = self.placed_EW[:, column].reshape(self._layers, -1).sum(axis=1)
        return found

    def _set(self, item: int, column: int, placed: bool) -> None:
        self.placed_EW[item, column] = placed
        by = 1 if placed else -1
        self.count_W[column] += by
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
