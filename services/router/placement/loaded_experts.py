"""Asks the expert workers what they have loaded: a new leader begins with that when Redis has no table of use."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from caracal_proto.placement_pb2 import Table

from services.membership.record import WorkerRecord
from services.router.placement.plan import Shape
from services.router.placement.table_view import Items, TableView
from services.router.placement.tables import to_table
from services.router.placement.worker_client import CallFailed, Workers

log = structlog.get_logger(__name__)

FEW = 8  # asked at a time


async def table_of_loaded(workers: Workers, records: Sequence[WorkerRecord], shape: Shape) -> tuple[Table | None, int]:
    """Returns what these workers, of one numerics class, have as a table of epoch 0, and their highest epoch.

    None when they have nothing; one that does not answer has nothing.
    """
    few = asyncio.Semaphore(FEW)

    async def ask(record: WorkerRecord) -> tuple[int, Items] | None:
        async with few:
            try:
                return await workers.loaded(record, shape.experts)
            except CallFailed as error:
                log.warning("a worker does not report its loaded experts", error=str(error))
        return None

    answers = await asyncio.gather(*map(ask, records))
    found = {r.worker_id: answer for r, answer in zip(records, answers, strict=True) if answer is not None}
    highest = max((epoch for epoch, _ in found.values()), default=0)
    loaded = {worker_id: item_N for worker_id, (_, item_N) in found.items()}
    if not any(map(len, loaded.values())):
        return None, highest
    view = TableView.of_loaded(loaded, shape.layers, shape.experts)
    return to_table(0, records[0].numerics_class, view, records), highest


async def highest_epoch(workers: Workers, records: Sequence[WorkerRecord]) -> int:
    """Returns the highest epoch that any of these attention workers has; one that does not answer has none."""
    few = asyncio.Semaphore(FEW)

    async def ask(record: WorkerRecord) -> int:
        async with few:
            try:
                return await workers.epoch(record)
            except CallFailed as error:
                log.warning("a worker does not report its epoch", error=str(error))
        return 0

    return max(await asyncio.gather(*map(ask, records)), default=0)
