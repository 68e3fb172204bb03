"""Converts between placement tables as sent and stored (Table) and as the policy sees them (TableView)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from caracal_proto.placement_pb2 import Endpoint, LayerPlacement, Replicas, Table

from services.membership.record import WorkerRecord
from services.router.placement.policy import TableView, ordinal

MAX_EPOCH = 1 << 62  # no valid epoch gets there; counting on from a value that does would overflow
TERM = 1000  # a new leader starts at the next multiple, so that two leaders never give one epoch to two tables


def to_table(epoch: int, numerics_class: str, view: TableView, records: Iterable[WorkerRecord]) -> Table:
    """Returns the message, which names only the workers that have experts."""
    used = {worker_id for _, replicas in view.items() for worker_id in replicas}
    hosts = sorted((r for r in records if r.worker_id in used), key=lambda r: ordinal(r.worker_id))
    index = {record.worker_id: i for i, record in enumerate(hosts)}
    return Table(
        epoch=epoch,
        numerics_class=numerics_class,
        workers=[Endpoint(worker_id=r.worker_id, address=r.address, boot_id=r.boot_id) for r in hosts],
        layers=[
            LayerPlacement(experts=[Replicas(worker=sorted(index[id] for id in replicas)) for replicas in layer])
            for layer in view.layers
        ],
    )


def fits(table: Table, layers: int, experts: int) -> bool:
    """Whether a table read from Redis can be one of this model."""
    workers = len(table.workers)
    return (
        0 < table.epoch < MAX_EPOCH
        and len({worker.worker_id for worker in table.workers}) == workers
        and len(table.layers) == layers
        and all(len(layer.experts) == experts for layer in table.layers)
        and all(index < workers for layer in table.layers for replicas in layer.experts for index in replicas.worker)
    )


def still_there(table: Table, alive: Mapping[str, WorkerRecord]) -> TableView:
    """Returns the part of a table whose workers are alive and have not restarted since."""
    here = [w.worker_id in alive and alive[w.worker_id].boot_id == w.boot_id for w in table.workers]
    return TableView(
        tuple(
            tuple(tuple(table.workers[i].worker_id for i in replicas.worker if here[i]) for replicas in layer.experts)
            for layer in table.layers
        )
    )


def view_of(loaded: Mapping[str, Iterable[tuple[int, int]]], layers: int, experts: int) -> TableView:
    """Returns the table that matches the (layer, expert) ids that workers say they have loaded."""
    rows: list[list[list[str]]] = [[[] for _ in range(experts)] for _ in range(layers)]
    for worker_id in sorted(loaded, key=ordinal):
        for layer, expert in loaded[worker_id]:
            if layer < layers and expert < experts:
                rows[layer][expert].append(worker_id)
    return TableView(tuple(tuple(tuple(replicas) for replicas in row) for row in rows))


def next_term(highest: int) -> int:
    """Returns the first epoch that a new leader may use."""
    return (highest // TERM + 1) * TERM if highest else 1
