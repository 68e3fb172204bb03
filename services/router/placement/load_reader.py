"""Asks the expert workers what their experts were asked for, and makes one load of it.

Legend: E experts of all layers; L layers, F FFN experts of a layer; W workers.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import structlog
from caracal_proto.expert_pb2 import LoadReply
from caracal_proto.loads import LoadError, WorkerLoad, unpack_load

from services.membership.record import WorkerRecord
from services.router.placement.load import Load
from services.router.placement.worker_client import CallFailed, Workers

log = structlog.get_logger(__name__)

FEW = 8  # asked at a time
# The cost of a row falls with the rows that share a launch, so a worker with little to do looks slow: only those that
# are clearly slower than the median worker are taken for slower, and idle ones for none.
SLOW, LEAST_BUSY = 0.75, 0.02


async def read_load(workers: Workers, records: Sequence[WorkerRecord], layers: int, experts: int) -> Load | None:
    """Returns the load of all these workers together; None in an idle cluster, or when one does not answer, or wrongly.

    A part of the load would make the experts of that worker look cold. A cluster is idle when neither its first nor its
    last worker has computed anything lately: these are asked before the others.
    """
    few = asyncio.Semaphore(FEW)

    async def ask(record: WorkerRecord) -> LoadReply:
        async with few:
            return await workers.load(record)

    try:
        ends = [await ask(record) for record in (*records[:1], *records[1:][-1:])]
        if not any(reply.assignments_per_s for reply in ends):
            return None
        replies = [ends[0], *await asyncio.gather(*map(ask, records[1:-1])), *ends[1:]]
        by_id = dict(zip((record.worker_id for record in records), replies, strict=True))
        return await asyncio.to_thread(_combined, by_id, layers, experts)
    except (CallFailed, LoadError) as error:
        log.info("the load of the experts is not known", reason=str(error))
        return None


def _combined(replies: Mapping[str, LoadReply], layers: int, experts: int) -> Load:
    """Raises LoadError."""
    loads: dict[str, WorkerLoad] = {}
    for worker_id, reply in replies.items():
        try:
            loads[worker_id] = unpack_load(reply, layers, experts)
        except LoadError as error:
            raise LoadError(f"{worker_id}: {error}") from None
    rate_LF = np.zeros((layers, experts))
    for load in loads.values():
        rate_LF += load.rate_LF
    return Load(rate_LF.reshape(-1), min(load.window_s for load in loads.values()), _speeds(loads))


def _speeds(loads: Mapping[str, WorkerLoad]) -> dict[str, float]:
    """The speed of each worker that is clearly slower than the median of those that work."""
    rows = {
        worker_id: load.assignments_per_s / load.busy for worker_id, load in loads.items() if load.busy >= LEAST_BUSY
    }
    median = statistics.median(rows.values()) if rows else 0.0
    return {worker_id: each / median for worker_id, each in rows.items() if median and each < SLOW * median}
