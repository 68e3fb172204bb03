"""Converts between placement tables as sent and stored (Table) and as the policy sees them (TableView).

Legend: E experts of all layers, F of one layer, W workers, A replicas, expert by expert.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import PlacementError, pack_layer, unpack_layer

from services.membership.checks import epoch_violation
from services.membership.numerics_class import fits
from services.membership.record import WorkerRecord
from services.router.placement.table_view import Items, TableView

TERM = 1000  # a new leader starts at the next multiple, so that two leaders never give one epoch to two tables


def to_table(epoch: int, numerics_class: str, view: TableView, records: Iterable[WorkerRecord]) -> Table:
    """Returns the message, which names only the workers that have experts."""
    by_id = {record.worker_id: record for record in records}
    hosts = [by_id[worker_id] for worker_id in view.worker_ids]
    table = Table(
        epoch=epoch,
        numerics_class=numerics_class,
        workers=[Endpoint(worker_id=r.worker_id, address=r.address, boot_id=r.boot_id) for r in hosts],
    )
    for placed_FW in view.placed_EW.reshape(view.layers, view.experts, -1):
        table.layers.append(pack_layer(placed_FW.sum(axis=1), np.nonzero(placed_FW)[1]))
    return table


def misfit(table: Table, layers: int, experts: int, known_epoch: int) -> str:
    """Why a table read from Redis cannot be one of this model and cluster; empty when it can.

    `known_epoch`: the highest epoch that is known from elsewhere.
    """
    workers = len(table.workers)
    if len({worker.worker_id for worker in table.workers}) != workers or len(table.layers) != layers:
        return f"it has {len(table.layers)} layers, the model {layers}, or names a worker twice"
    try:
        unpacked = [unpack_layer(layer) for layer in table.layers]
    except PlacementError as error:
        return str(error)
    if not all(len(replicas_F) == experts and worker_A.max(initial=-1) < workers for replicas_F, worker_A in unpacked):
        return f"a layer has not {experts} experts, or one on a worker that it does not name"
    return epoch_violation(table.epoch, known_epoch) if table.epoch else "it has no epoch"


def still_there(table: Table, alive: Mapping[str, WorkerRecord]) -> TableView:
    """Returns the part of a table whose workers are alive and have not restarted since."""
    layers = [unpack_layer(layer) for layer in table.layers]
    replicas_E = np.concatenate([replicas_F for replicas_F, _ in layers])
    placed_EW = np.zeros((len(replicas_E), len(table.workers)), dtype=np.bool_)
    expert_A = np.repeat(np.arange(len(replicas_E)), replicas_E)
    placed_EW[expert_A, np.concatenate([worker_A for _, worker_A in layers])] = True
    for column, worker in enumerate(table.workers):
        if worker.worker_id not in alive or alive[worker.worker_id].boot_id != worker.boot_id:
            placed_EW[:, column] = False
    ids = [worker.worker_id for worker in table.workers]
    return TableView.of(len(layers), len(layers[0][0]), ids, placed_EW)


def given_to(table: Table, record: WorkerRecord) -> Items:
    """Returns the experts that a table gives to a run of a worker, ascending."""
    item_N: Items = np.flatnonzero(still_there(table, {record.worker_id: record}).placed_EW.any(axis=1))
    return item_N


def address_changed(table: Table | None, usable: Iterable[WorkerRecord]) -> bool:
    """Whether a worker that is in the table has another address now."""
    named = {worker.boot_id: worker.address for worker in table.workers} if table else {}
    return any(named.get(record.boot_id, record.address) != record.address for record in usable)


def chosen_class(table: Table | None, experts: Iterable[WorkerRecord], attention: Iterable[WorkerRecord]) -> str:
    """The numerics class of the next table: this one's while an expert worker of it is alive, or while no attention
    worker could use another one; else the one that the most attention workers have; empty without expert workers."""
    classes, wanted = [record.numerics_class for record in experts], [record.numerics_class for record in attention]
    if table is not None:
        usable = any(fits(its, one) for its in wanted for one in classes)
        if table.numerics_class in classes or (classes and table.numerics_class and not usable):
            return table.numerics_class

    def votes(one: str) -> tuple[int, int]:
        return sum(fits(its, one) for its in wanted), classes.count(one)

    return max(sorted(set(classes)), key=votes, default="")


def next_term(highest: int) -> int:
    """Returns the first epoch that a new leader may use."""
    return (highest // TERM + 1) * TERM if highest else 1
