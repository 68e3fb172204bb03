"""The policies: today's by counts, ours by load, and EPLB.

Legend: L layers; E experts of a layer; W workers.
"""

from __future__ import annotations

from bench.placement import eplb
from bench.placement.simulation import WINDOW_S, Counts, Floats, Policy
from services.router.placement.load import Load
from services.router.placement.policy import WorkerView, place
from services.router.placement.table_view import TableView


def by_counts(layers: int, experts: int, workers: int) -> Counts:
    """Where every contender starts: equal counts, whatever the load."""
    view = place(experts, layers, _workers(workers), 1)
    return _of(view, workers)


def still(measured_LE: Floats, speed_W: Floats, placed_LEW: Counts) -> Counts:
    return placed_LEW


def ours(extra: int, moves: int) -> Policy:
    def policy(measured_LE: Floats, speed_W: Floats, placed_LEW: Counts) -> Counts:
        layers, experts, count = placed_LEW.shape
        workers = _workers(count)
        ids = [worker.worker_id for worker in workers]
        current = TableView.of(layers, experts, ids, placed_LEW.reshape(-1, count) > 0)
        load = Load(measured_LE.ravel(), WINDOW_S, dict(zip(ids, speed_W.tolist(), strict=True)))
        return _of(place(experts, layers, workers, 1, current, load, extra, moves), count)

    return policy


def eplb_with(extra: int) -> Policy:
    def policy(measured_LE: Floats, speed_W: Floats, placed_LEW: Counts) -> Counts:
        return eplb.rebalance(measured_LE, extra, placed_LEW.shape[2])

    return policy


def contenders(extra: int, moves: int) -> dict[str, Policy]:
    """`extra`: more replicas in each layer; `moves`: experts loaded in a minute, of ours only."""
    return {
        "by counts": still,
        "by load": ours(0, moves),
        f"by load, {extra} more": ours(extra, moves),
        "EPLB": eplb_with(0),
        f"EPLB, {extra} more": eplb_with(extra),
    }


def _workers(count: int) -> list[WorkerView]:
    return [WorkerView(f"expert-{number}") for number in range(count)]


def _of(view: TableView, count: int) -> Counts:
    placed_EW = view.columns([worker.worker_id for worker in _workers(count)])
    return placed_EW.reshape(view.layers, view.experts, count).astype(int)
