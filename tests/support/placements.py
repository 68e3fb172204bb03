"""Reads placements as tests compare them."""

from __future__ import annotations

import numpy as np

from services.router.placement.table_view import TableView


def of_worker(table: TableView, worker_id: str) -> set[int]:
    """The experts placed on one worker, each by its index among those of all layers."""
    if worker_id not in table.worker_ids:
        return set()
    return set(np.flatnonzero(table.placed_EW[:, table.worker_ids.index(worker_id)]).tolist())
