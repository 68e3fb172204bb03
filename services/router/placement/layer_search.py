"""Looks for the changes that make the slowest worker of each layer faster, all layers at once. Pure.

A step exchanges an expert of the slowest worker for one of a fast worker, moves it there, or puts a replica there. Each
layer takes the step with the best gain per expert loaded, again and again, until none gains much.
Legend: L layers, or those still searched; E experts of a layer; W workers; P partners, the workers with the least to
do; S, T the experts of a worker in a layer, padded with -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from caracal_proto.placements import MAX_REPLICAS
from numpy.typing import NDArray

from services.router.placement.limits import Limits, loads
from services.router.placement.load import Floats
from services.router.placement.table_view import Placed

Ints = NDArray[np.int64]

CANDIDATES = 4096  # exchanges of a layer looked at for a step, about
PARTNERS = 8  # at most
ROUNDS = 64  # steps of a layer at most
SPARE = 4  # by how many experts a worker may grow in a layer
LEAST_GAIN = 0.004  # of a fair load, for each expert loaded: less is not worth a step
COLDER = 0.5  # a replica makes room for another one that serves so many times its rows


class Step(NamedTuple):
    """`partner` gets `item` of `worst`, which keeps it if `copied`, and else gets `back` for it unless that is -1.

    Before that `dropped` is taken from `holder`, unless it is -1. `cost`: experts loaded; `peak`: the slowest worker's
    load afterwards.
    """

    layer: int
    item: int
    worst: int
    partner: int
    back: int
    copied: bool
    dropped: int
    holder: int
    cost: int
    peak: float


@dataclass(frozen=True, slots=True, eq=False)
class _Best:
    """The best candidate of each layer: gain per expert loaded, and where in its axes."""

    score_L: Floats
    partner_L: Ints
    s_L: Ints
    t_L: Ints


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """The layers still searched: their slowest workers, partners, and the experts of both."""

    layer_L: Ints
    worst_L: Ints
    peak_L: Floats
    partner_LP: Ints
    item_LS: Ints
    back_LPT: Ints
    free_LPS: Placed  # whether the partner may be given the item


class LayerSearch:
    """Searches from `placed_LEW`, which it does not change.

    `base_LE`: replicas that each expert keeps; a layer has up to `extra` more. `floor_L`: loads below it count as it.
    """

    def __init__(
        self, placed_LEW: Placed, rows_LE: Floats, limits: Limits, base_LE: Ints, extra: int, floor_L: Floats
    ) -> None:
        self._placed_LEW, self._rows_LE, self._limits = placed_LEW.copy(), rows_LE, limits
        self._base_LE, self._floor_L = base_LE, floor_L
        self._copies_LE = placed_LEW.sum(axis=2)
        self._load_LW = loads(placed_LEW, rows_LE, limits.speed_W)
        self._items_LWS = _items(placed_LEW)
        self._on_host_LEH = limits.on_hosts(placed_LEW) if limits.hosts_shared else None
        self._count_W = placed_LEW.sum(axis=(0, 1))
        self._room_L = extra - np.maximum(self._copies_LE - base_LE, 0).sum(axis=1)
        self._replaces_L = np.full(len(rows_LE), extra > 0)
        self._mean_L = rows_LE.sum(axis=1) / np.maximum(self._copies_LE.sum(axis=1), 1)
        self._fair_L = rows_LE.sum(axis=1) / max(float(limits.speed_W[limits.stays_W].sum()), 1e-9)
        self._searched_L = np.arange(len(rows_LE))
        self._partners = int(np.clip(CANDIDATES // self._items_LWS.shape[2] ** 2, 1, PARTNERS))

    @property
    def peak_L(self) -> Floats:
        """The load of each layer's slowest worker."""
        peak_L: Floats = np.where(self._limits.stays_W, self._load_LW, -np.inf).max(axis=1)
        return peak_L

    def run(self) -> list[list[Step]]:
        """Returns the steps, round by round, at most one of a layer in each."""
        rounds: list[list[Step]] = []
        while len(rounds) < ROUNDS:
            layer_L = self._searched_L
            self._searched_L = layer_L[self.peak_L[layer_L] > self._floor_L[layer_L]]
            if not len(self._searched_L):
                break
            rounds.append(self._round())
        return rounds

    def _round(self) -> list[Step]:
        """Takes a step in each layer that has one; the others are searched no further."""
        view = self._look()
        exchange, copy = self._best_exchange(view), self._best_copy(view)
        score_L = np.maximum(exchange.score_L, copy.score_L)
        gains_L = score_L > LEAST_GAIN * self._fair_L[view.layer_L]
        self._searched_L = view.layer_L[gains_L]
        steps = []
        for row in np.flatnonzero(gains_L).tolist():
            copied = bool(copy.score_L[row] > exchange.score_L[row])
            step = self._take(view, row, copy if copied else exchange, copied)
            if step is not None:
                steps.append(step)
        return steps

    def _look(self) -> _View:
        limits, layer_L = self._limits, self._searched_L
        load_LW, rows_L = self._load_LW[layer_L], np.arange(len(layer_L))
        worst_L = np.where(limits.stays_W, load_LW, -np.inf).argmax(axis=1)
        idle_LW = np.where(limits.gains_W, load_LW, np.inf)
        idle_LW[rows_L, worst_L] = np.inf
        partners = min(self._partners, idle_LW.shape[1] - 1)
        partner_LP = np.argpartition(idle_LW, partners - 1, axis=1)[:, :partners]
        may_LP = np.isfinite(idle_LW[rows_L[:, None], partner_LP])
        item_LS = self._items_LWS[layer_L, worst_L]
        back_LPT = self._items_LWS[layer_L[:, None], partner_LP]
        free_LPS = self._may_go(layer_L, item_LS[:, None, :], worst_L[:, None], partner_LP) & may_LP[:, :, None]
        return _View(layer_L, worst_L, load_LW[rows_L, worst_L], partner_LP, item_LS, back_LPT, free_LPS)

    def _may_go(self, layer_L: Ints, item_LPS: Ints, giver_LP: Ints, taker_LP: Ints) -> Placed:
        """Whether a taker has not got the item, and its host no more other replicas of it than the giver's."""
        layer_L11, giver_LP1, taker_LP1 = layer_L[:, None, None], giver_LP[:, :, None], taker_LP[:, :, None]
        may_LPS: Placed = (item_LPS >= 0) & ~self._placed_LEW[layer_L11, item_LPS, taker_LP1]
        if self._on_host_LEH is not None:
            from_LP1, to_LP1 = self._limits.host_W[giver_LP1], self._limits.host_W[taker_LP1]
            others_LPS = self._on_host_LEH[layer_L11, item_LPS, to_LP1] - (from_LP1 == to_LP1)
            may_LPS &= others_LPS < self._on_host_LEH[layer_L11, item_LPS, from_LP1]
        return may_LPS

    def _best_exchange(self, view: _View) -> _Best:
        """The best item to give a partner, for one of its own or, where there is room, for nothing."""
        limits, layer_L = self._limits, view.layer_L
        worst_LP = np.broadcast_to(view.worst_L[:, None], view.partner_LP.shape)
        empty_LPT = view.back_LPT < 0
        room_LP = (self._count_W < limits.most_W)[view.partner_LP] & (self._count_W > limits.least_W)[worst_LP]
        ok_LPT = self._may_go(layer_L, view.back_LPT, view.partner_LP, worst_LP)
        ok_LPT &= limits.gains_W[worst_LP][:, :, None]
        ok_LPT |= empty_LPT & room_LP[:, :, None]
        share_LS = self._share(layer_L[:, None], view.item_LS)
        share_LPT = self._share(layer_L[:, None, None], view.back_LPT)
        moved_LPST = share_LS[:, None, :, None] - share_LPT[:, :, None, :]
        peak_L111 = view.peak_L[:, None, None, None]
        after_LPST = moved_LPST / limits.speed_W[view.partner_LP][:, :, None, None]
        after_LPST += self._load_LW[layer_L[:, None], view.partner_LP][:, :, None, None]
        moved_LPST /= -limits.speed_W[view.worst_L][:, None, None, None]
        moved_LPST += peak_L111
        np.maximum(after_LPST, moved_LPST, out=after_LPST)
        np.maximum(after_LPST, self._floor_L[layer_L][:, None, None, None], out=after_LPST)
        np.subtract(peak_L111, after_LPST, out=after_LPST)
        after_LPST *= view.free_LPS[:, :, :, None]
        after_LPST *= np.where(ok_LPT, np.where(empty_LPT, 1.0, 0.5), 0.0)[:, :, None, :]
        return _best(after_LPST)

    def _best_copy(self, view: _View) -> _Best:
        """The best item to put a replica of on a partner, on a host that has none unless all hosts have one."""
        limits, layer_L = self._limits, view.layer_L
        layer_L1, layer_L11 = layer_L[:, None], layer_L[:, None, None]
        copies_LS = self._copies_LE[layer_L1, view.item_LS]
        share_LS = self._rows_LE[layer_L1, view.item_LS] / (copies_LS + 1)
        worth_LS = (share_LS >= self._mean_L[layer_L1]) & (copies_LS < MAX_REPLICAS)
        full_L = self._room_L[layer_L] <= 0
        worth_LS &= ~full_L[:, None] | (self._coldest(layer_L)[1][:, None] <= COLDER * share_LS)
        room_LP = (self._count_W < limits.most_W)[view.partner_LP] & (view.back_LPT < 0).any(axis=2)
        ok_LPS = view.free_LPS & worth_LS[:, None, :] & room_LP[:, :, None]
        if self._on_host_LEH is not None:
            item_L1S, host_LP1 = view.item_LS[:, None, :], limits.host_W[view.partner_LP][:, :, None]
            new_LPS = self._on_host_LEH[layer_L11, item_L1S, host_LP1] == 0
            everywhere_LS = np.all(self._on_host_LEH[layer_L1, view.item_LS] > 0, axis=2)
            ok_LPS &= new_LPS | everywhere_LS[:, None, :]
        less_LS = (self._share(layer_L1, view.item_LS) - share_LS) / limits.speed_W[view.worst_L][:, None]
        more_LPS = share_LS[:, None, :] / limits.speed_W[view.partner_LP][:, :, None]
        more_LPS += self._load_LW[layer_L1, view.partner_LP][:, :, None]
        after_LPS = np.maximum(more_LPS, (view.peak_L[:, None] - less_LS)[:, None, :])
        gain_LPS = view.peak_L[:, None, None] - np.maximum(after_LPS, self._floor_L[layer_L11])
        return _best((gain_LPS * ok_LPS)[:, :, :, None])

    def _share(self, layer: Ints, item: Ints) -> Floats:
        share = self._rows_LE[layer, item] / np.maximum(self._copies_LE[layer, item], 1)
        return np.where(item >= 0, share, 0.0)

    def _coldest(self, layer_L: Ints) -> tuple[Ints, Floats]:
        """The replica that each layer needs least of those above `base_LE`, and the share of its expert without it."""
        copies_LE = self._copies_LE[layer_L]
        without_LE = self._rows_LE[layer_L] / np.maximum(copies_LE - 1, 1)
        may_LE = (copies_LE > self._base_LE[layer_L]) & self._replaces_L[layer_L][:, None]
        without_LE = np.where(may_LE, without_LE, np.inf)
        item_L = without_LE.argmin(axis=1)
        return item_L, without_LE[np.arange(len(layer_L)), item_L]

    def _take(self, view: _View, row: int, best: _Best, copied: bool) -> Step | None:
        """Carries a layer's step out; None when steps of others have used the room up, or its price is too high."""
        layer, worst, limits = int(view.layer_L[row]), int(view.worst_L[row]), self._limits
        p, s, t = int(best.partner_L[row]), int(best.s_L[row]), int(best.t_L[row])
        partner, item = int(view.partner_LP[row, p]), int(view.item_LS[row, s])
        back = -1 if copied else int(view.back_LPT[row, p, t])
        dropped = holder = -1
        if back < 0:
            if self._count_W[partner] >= limits.most_W[partner]:
                return None
            if not copied and self._count_W[worst] <= limits.least_W[worst]:
                return None
        if not copied:
            self._exchange(layer, (worst, s, item), (partner, t, back))
        elif self._room_L[layer] > 0:
            self._set(layer, item, partner, True)
        else:
            dropped = int(self._coldest(np.array([layer]))[0][0])
            rows = float(self._rows_LE[layer, dropped])
            holder, _ = limits.without_one(self._placed_LEW[layer, dropped], self._load_LW[layer], rows)
            if self._count_W[holder] <= limits.least_W[holder]:
                self._replaces_L[layer] = False
                return None
            self._set(layer, dropped, holder, False)
            self._set(layer, item, partner, True)
        after = float(self._load_LW[layer][limits.stays_W].max())
        if dropped >= 0 and after >= view.peak_L[row]:
            self._set(layer, item, partner, False)
            self._set(layer, dropped, holder, True)
            self._replaces_L[layer] = False
            return None
        return Step(layer, item, worst, partner, back, copied, dropped, holder, 2 if back >= 0 else 1, after)

    def _exchange(self, layer: int, ours: tuple[int, int, int], theirs: tuple[int, int, int]) -> None:
        """Exchanges what two workers have in a place, each (worker, place, item); no expert's copies change."""
        for (giver, _, item), (taker, place, _) in ((ours, theirs), (theirs, ours)):
            self._items_LWS[layer, taker, place] = item
            if item < 0:
                continue
            share = self._rows_LE[layer, item] / self._copies_LE[layer, item]
            for worker, by in ((giver, -1), (taker, 1)):
                self._placed_LEW[layer, item, worker] = by > 0
                self._load_LW[layer, worker] += by * share / self._limits.speed_W[worker]
                self._count_W[worker] += by
                if self._on_host_LEH is not None:
                    self._on_host_LEH[layer, item, self._limits.host_W[worker]] += by

    def _set(self, layer: int, item: int, worker: int, placed: bool) -> None:
        """Gives a worker an expert or takes it away, and spreads the expert's rows anew."""
        by = 1 if placed else -1
        holders_W = self._placed_LEW[layer, item]
        rows, copies = float(self._rows_LE[layer, item]), int(self._copies_LE[layer, item])
        self._load_LW[layer] -= holders_W * (rows / max(copies, 1)) / self._limits.speed_W
        holders_W[worker] = placed
        self._load_LW[layer] += holders_W * (rows / max(copies + by, 1)) / self._limits.speed_W
        self._copies_LE[layer, item] = copies + by
        self._count_W[worker] += by
        if (copies > self._base_LE[layer, item]) if by < 0 else (copies >= self._base_LE[layer, item]):
            self._room_L[layer] -= by
        places_S = self._items_LWS[layer, worker]
        places_S[np.flatnonzero(places_S == (-1 if placed else item))[0]] = item if placed else -1
        if self._on_host_LEH is not None:
            self._on_host_LEH[layer, item, self._limits.host_W[worker]] += by


def _items(placed_LEW: Placed) -> Ints:
    """The experts of each worker in each layer, [L, W, S], padded with -1."""
    layer, worker, item = np.nonzero(placed_LEW.transpose(0, 2, 1))
    count_LW = placed_LEW.sum(axis=1)
    items_LWS = np.full((*count_LW.shape, int(count_LW.max(initial=0)) + SPARE), -1, dtype=np.int64)
    first_LW = np.cumsum(count_LW).reshape(count_LW.shape) - count_LW
    items_LWS[layer, worker, np.arange(len(item)) - first_LW[layer, worker]] = item
    return items_LWS


def _best(gain_LPST: Floats) -> _Best:
    flat = gain_LPST.reshape(len(gain_LPST), -1)
    best_L = flat.argmax(axis=1)
    partner_L, s_L, t_L = np.unravel_index(best_L, gain_LPST.shape[1:])
    return _Best(flat[np.arange(len(flat)), best_L], partner_L, s_L, t_L)
