"""Whether attention workers wait when an expert worker is gone, by the rule that they follow. Pure."""

from __future__ import annotations

import numpy as np

from services.router.dispatch.errors import WorkerUnavailable
from services.router.dispatch.retry import choose_retry, record_failure
from services.router.placement.table_view import TableView


def asked_again(table: TableView, dead: set[str], epoch: int) -> int | None:
    """How often a call is sent again until every expert has answered; None where some have no worker that answers.

    What counts is the layer that is worst off: a step goes through all of them.
    """
    gone = {column for column, worker_id in enumerate(table.worker_ids) if worker_id in dead}
    failure = record_failure(None, epoch, WorkerUnavailable("its connection has ended"))
    most = 0
    placed_LEW = table.placed_EW.reshape(table.layers, table.experts, -1)
    for placed_EW in placed_LEW:
        missing = set(np.flatnonzero(placed_EW[:, sorted(gone)].any(axis=1)).tolist())
        replicas = [np.flatnonzero(placed_W).tolist() if e in missing else [] for e, placed_W in enumerate(placed_EW)]
        failures, tries = {}, 0
        for worker in sorted(gone):
            failures[worker] = failure
        while missing:
            choice = choose_retry(failures, epoch, replicas, missing, tries)
            answered = {e for e in missing if set(replicas[e]) - choice.banned - gone}
            if choice.pause_s or not answered:
                return None
            missing -= answered
            tries += 1
        most = max(most, tries)
    return most
