"""One change of the placement table, in two phases. Until `publish` begins, nothing that serves has changed.

In the first phase workers load the experts that they gain, and the golden digests are compared. In the second,
attention workers get the table before expert workers do: a worker has already loaded what it gains, and serves what it
loses until its Commit, so that no call is rejected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog
from caracal_proto.placement_pb2 import Table

from services.membership.record import WorkerRecord
from services.router.placement.table_view import Item, TableView
from services.router.placement.worker_client import CallFailed, Workers

log = structlog.get_logger(__name__)

PUSHES = 16  # of one table at a time: each takes the gateway's event loop for a moment
DRAIN_CALLS_S = 0.05  # calls routed by the old table are answered before any worker rejects its epoch


class JoinFailed(Exception):
    """Expected: a worker could not load its experts, or answers the golden row wrongly. Nothing has changed."""

    def __init__(self, worker_id: str, reason: str) -> None:
        super().__init__(reason)
        self.worker_id = worker_id


@dataclass(slots=True)
class Digests:
    """The golden digest of each expert of a numerics class, as the first replica gave it."""

    numerics_class: str = ""
    known: dict[Item, int] = field(default_factory=dict)

    def under(self, numerics_class: str) -> Digests:
        return self if self.numerics_class == numerics_class else Digests(numerics_class)

    def compare(self, worker_id: str, given: Mapping[Item, int]) -> None:
        """Raises JoinFailed when a worker's digest of an expert differs from the other replicas'."""
        for (layer, expert), digest in sorted(given.items()):
            if self.known.get((layer, expert), digest) != digest:
                raise JoinFailed(
                    worker_id,
                    f"{worker_id}: expert {expert} of layer {layer} answers the golden row with {digest:016x}, "
                    f"other replicas with {self.known[layer, expert]:016x}",
                )

    def learn(self, given: Mapping[Item, int]) -> None:
        for item, digest in given.items():
            self.known.setdefault(item, digest)


def gains(before: TableView, after: TableView) -> dict[str, set[Item]]:
    """Returns the experts that each worker has to load."""
    gained_EW = after.placed_EW & ~before.columns(after.worker_ids)
    rows_W = (np.flatnonzero(gained_E).tolist() for gained_E in gained_EW.T)
    found = zip(after.worker_ids, rows_W, strict=True)
    return {worker_id: {divmod(row, after.experts) for row in rows} for worker_id, rows in found if rows}


async def prepare(
    workers: Workers,
    epoch: int,
    before: TableView,
    after: TableView,
    records: Mapping[str, WorkerRecord],
    digests: Digests,
) -> None:
    """First phase: every worker loads the experts that it gains, all in parallel. Raises JoinFailed."""
    wanted = gains(before, after)
    await _learn_digests(workers, epoch, before, set().union(*wanted.values()), records, digests)
    loads = [_load(workers, epoch, records[worker_id], items, digests) for worker_id, items in wanted.items()]
    results = await asyncio.gather(*loads, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    for worker_id, given in zip(wanted, results, strict=True):
        assert isinstance(given, dict)
        digests.compare(worker_id, given)
        digests.learn(given)


async def _load(
    workers: Workers, epoch: int, record: WorkerRecord, items: Iterable[Item], digests: Digests
) -> dict[Item, int]:
    try:
        given = await workers.prepare(record, epoch, items)
    except CallFailed as error:
        raise JoinFailed(record.worker_id, str(error)) from None
    digests.compare(record.worker_id, given)
    return given


async def _learn_digests(
    workers: Workers,
    epoch: int,
    before: TableView,
    moving: set[Item],
    records: Mapping[str, WorkerRecord],
    digests: Digests,
) -> None:
    """Asks workers for the unknown digests of experts they have loaded already: a new leader did not see them load."""
    unknown: dict[str, set[Item]] = {}
    for layer, expert in moving - digests.known.keys():
        holders = np.flatnonzero(before.placed_EW[layer * before.experts + expert])
        if len(holders) and (first := before.worker_ids[holders[0]]) in records:
            unknown.setdefault(first, set()).add((layer, expert))
    for worker_id, items in unknown.items():
        try:
            digests.learn(await workers.prepare(records[worker_id], epoch, items))
        except CallFailed as error:
            log.warning("a worker gave no digests of its experts", worker_id=worker_id, error=str(error))


async def publish(
    workers: Workers, table: Table, attention: Sequence[WorkerRecord], experts: Sequence[WorkerRecord]
) -> set[tuple[str, bool]]:
    """Second phase: pushes the table. Returns (boot id, draining) of each worker that took it."""
    pushed = await push_table(workers, table, attention)
    await asyncio.sleep(DRAIN_CALLS_S)
    return pushed | await push_table(workers, table, experts)


async def push_table(workers: Workers, table: Table, records: Sequence[WorkerRecord]) -> set[tuple[str, bool]]:
    """Pushes the table to workers of either role, in parallel; returns (boot id, draining) of each that took it."""
    few = asyncio.Semaphore(PUSHES)
    pushed = await asyncio.gather(*(_push(workers, table, record, few) for record in records))
    return {key for key in pushed if key is not None}


async def _push(
    workers: Workers, table: Table, record: WorkerRecord, few: asyncio.Semaphore
) -> tuple[str, bool] | None:
    send = workers.apply if record.role == "attention" else workers.commit
    try:
        async with few:
            await send(record, table)
    except CallFailed as error:
        log.warning("a worker did not take the table", worker_id=record.worker_id, epoch=table.epoch, error=str(error))
        return None
    return record.boot_id, record.draining
