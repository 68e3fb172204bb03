"""The baseline: DeepSeek's Expert Parallelism Load Balancer, written from its published description (global policy).

Each time anew and each layer alone: the expert with the most load per replica gets the next replica, until there are
enough; then the replicas, heaviest first, each go to the worker with the least load that has room. It knows no speeds,
no present placement, and may put two replicas of an expert on one worker.
Legend: L layers; E experts of a layer; W workers.
"""

from __future__ import annotations

import heapq

import numpy as np

from bench.placement.simulation import Counts, Floats


def replica_counts(rows_E: Floats, total: int) -> Counts:
    """How many replicas each expert gets, at least one, `total` in all."""
    copies_E = np.ones(len(rows_E), dtype=np.int64)
    heap = [(-rows, expert) for expert, rows in enumerate(rows_E.tolist())]
    heapq.heapify(heap)
    for _ in range(total - len(rows_E)):
        _, expert = heap[0]
        copies_E[expert] += 1
        heapq.heapreplace(heap, (-float(rows_E[expert]) / int(copies_E[expert]), expert))
    return copies_E


def pack(rows_E: Floats, copies_E: Counts, workers: int) -> Counts:
    """How many replicas of each expert each worker gets, [E, W]; workers' counts differ by at most one.

    The published algorithm wants them equal, and the number of replicas to divide.
    """
    items = np.repeat(np.arange(len(rows_E)), copies_E)
    share_E = rows_E / copies_E
    room, larger = divmod(len(items), workers)
    left = [room + (worker < larger) for worker in range(workers)]
    heap = [(0.0, worker) for worker in range(workers)]
    placed_EW = np.zeros((len(rows_E), workers), dtype=np.int64)
    for item in items[np.argsort(-share_E[items], kind="stable")].tolist():
        load, worker = heap[0]
        placed_EW[item, worker] += 1
        left[worker] -= 1
        if left[worker]:
            heapq.heapreplace(heap, (load + float(share_E[item]), worker))
        else:
            heapq.heappop(heap)
    return placed_EW


def rebalance(rows_LE: Floats, extra: int, workers: int) -> Counts:
    """The placement of all layers, [L, E, W], with `extra` more replicas than experts in each."""
    placed = []
    for rows_E in rows_LE:
        copies_E = replica_counts(rows_E, len(rows_E) + extra)
        placed.append(pack(rows_E, copies_E, workers))
    return np.stack(placed)
