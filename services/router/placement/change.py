"""One change of the placement table, in two phases. Until `publish` begins, nothing that serves has changed.

In the first phase workers load the experts that they gain, and the golden digests are compared. In the second,
attention workers get the table before expert workers do: a worker has already loaded what it gains, and serves what it
loses until its Commit, so that no call is rejected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import structlog
from caracal_proto.expert_pb2 import CommitRequest
from caracal_proto.placement_pb2 import Table

from services.membership.record import WorkerRecord
from services.router.placement.differing_tensors import differing_tensors
from services.router.placement.digests import DigestArray, Digests
from services.router.placement.table_view import Items, TableView
from services.router.placement.worker_client import CallFailed, EpochTaken, Workers

log = structlog.get_logger(__name__)

FEW = (
    8  # calls that begin, or tables that are on their way, at a time: each takes the gateway's event loop for a moment
)
DRAIN_CALLS_S = 0.05  # calls routed by the old table are answered before any worker rejects its epoch


class JoinFailed(Exception):
    """Expected: a worker could not load its experts, or answers the golden row wrongly. Nothing has changed.

    `item`: the expert that is not as it is elsewhere, by its index among all.
    """

    def __init__(self, worker_id: str, reason: str, item: int | None = None) -> None:
        super().__init__(reason)
        self.worker_id, self.item = worker_id, item


def gains(before: TableView, after: TableView) -> dict[str, Items]:
    """Returns the experts that each worker has to load, ascending."""
    gained_EW = after.placed_EW & ~before.columns(after.worker_ids)
    found = zip(after.worker_ids, (np.flatnonzero(gained_E) for gained_E in gained_EW.T), strict=True)
    return {worker_id: item_N for worker_id, item_N in found if len(item_N)}


async def prepare(
    workers: Workers,
    epoch: int,
    before: TableView,
    after: TableView,
    records: Mapping[str, WorkerRecord],
    digests: Digests,
) -> int:
    """First phase: every worker loads what it gains, all in parallel; returns how many experts. Raises JoinFailed."""
    wanted = await asyncio.to_thread(gains, before, after)
    try:
        return await _prepare(workers, epoch, before, wanted, records, digests)
    except JoinFailed as error:
        if error.item is None:
            raise
        record = records[error.worker_id]
        others = [one for one in records.values() if one is not record]
        named = await differing_tensors(workers, record, others, *divmod(error.item, before.experts))
        raise JoinFailed(error.worker_id, f"{named}{error}", error.item) from None


async def _prepare(
    workers: Workers,
    epoch: int,
    before: TableView,
    wanted: Mapping[str, Items],
    records: Mapping[str, WorkerRecord],
    digests: Digests,
) -> int:
    await _learn_digests(workers, epoch, before, wanted, records, digests)
    loads = [
        _load(workers, epoch, records[worker_id], item_N, before.experts, digests, turn // FEW)
        for turn, (worker_id, item_N) in enumerate(wanted.items())
    ]
    results = await asyncio.gather(*loads, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    for (worker_id, item_N), given_N in zip(wanted.items(), results, strict=True):
        assert not isinstance(given_N, BaseException)
        _compare(worker_id, item_N, given_N, before.experts, digests)
        digests.learn(item_N, given_N)
    return sum(map(len, wanted.values()))


async def _load(
    workers: Workers, epoch: int, record: WorkerRecord, item_N: Items, experts: int, digests: Digests, turn: int
) -> DigestArray:
    for _ in range(turn):  # of the event loop
        await asyncio.sleep(0)
    try:
        given_N = await workers.prepare(record, epoch, item_N, experts)
    except CallFailed as error:
        raise JoinFailed(record.worker_id, str(error)) from None
    _compare(record.worker_id, item_N, given_N, experts, digests)
    return given_N


def _compare(worker_id: str, item_N: Items, given_N: DigestArray, experts: int, digests: Digests) -> None:
    """Raises JoinFailed when a worker's digest of an expert differs from the other replicas'."""
    if (difference := digests.difference(item_N, given_N)) is not None:
        layer, expert = divmod(difference.item, experts)
        others = f"other replicas with {difference.known:016x}"
        if difference.stored:
            others = f"redis has {difference.known:016x} in the hash digests:{digests.numerics_class}"
        raise JoinFailed(
            worker_id,
            f"{worker_id}: expert {expert} of layer {layer} answers the golden row with "
            f"{difference.given:016x}, {others}",
            difference.item,
        )


async def _learn_digests(
    workers: Workers,
    epoch: int,
    before: TableView,
    wanted: Mapping[str, Items],
    records: Mapping[str, WorkerRecord],
    digests: Digests,
) -> None:
    """Asks workers for digests, of experts they have loaded already, that are neither known here nor in Redis."""
    moves_E = np.zeros(len(before.placed_EW), np.bool_)
    for item_N in wanted.values():
        moves_E[item_N] = True
    unknown_N = digests.unknown(np.flatnonzero(moves_E))
    held_NW = before.placed_EW[unknown_N]
    holder_N = held_NW.argmax(axis=1) if held_NW.shape[1] else np.zeros(len(unknown_N), np.int64)
    holder_N[~held_NW.any(axis=1)] = -1
    for column in sorted(set(holder_N[holder_N >= 0].tolist())):
        worker_id = before.worker_ids[column]
        if worker_id not in records:
            continue
        item_N = unknown_N[holder_N == column]
        try:
            digests.learn(item_N, await workers.prepare(records[worker_id], epoch, item_N, before.experts))
        except CallFailed as error:
            log.warning("a worker gave no digests of its experts", worker_id=worker_id, error=str(error))


class PublishedTable:
    """A table with its two messages, serialized once for all workers.

    `epoch_taken`: whether a worker has another table of its epoch, so that it needs another one.
    """

    def __init__(self, table: Table) -> None:
        self.table, self.epoch_taken = table, False
        self._of_role = {
            "attention": table.SerializeToString(),
            "expert": CommitRequest(table=table).SerializeToString(),
        }

    def message_to(self, role: str) -> bytes:
        return self._of_role[role]


async def publish(
    workers: Workers, table: PublishedTable, attention: Sequence[WorkerRecord], experts: Sequence[WorkerRecord]
) -> set[tuple[str, bool]]:
    """Second phase: pushes the table. Returns (boot id, draining) of each worker that took it."""
    pushed = await push_table(workers, table, attention)
    await asyncio.sleep(DRAIN_CALLS_S)
    return pushed | await push_table(workers, table, experts)


async def push_table(workers: Workers, table: PublishedTable, records: Sequence[WorkerRecord]) -> set[tuple[str, bool]]:
    """Pushes the table to workers of either role, in parallel; returns (boot id, draining) of each that took it.

    Those that must not serve do not get it.
    """
    few = asyncio.Semaphore(FEW)
    pushed = await asyncio.gather(*(_push(workers, table, record, few) for record in records if not record.refused))
    return {key for key in pushed if key is not None}


async def _push(
    workers: Workers, table: PublishedTable, record: WorkerRecord, few: asyncio.Semaphore
) -> tuple[str, bool] | None:
    try:
        async with few:
            await workers.push(record, table.message_to(record.role))
    except CallFailed as error:
        epoch = table.table.epoch
        table.epoch_taken = table.epoch_taken or isinstance(error, EpochTaken)
        note = log.info if record.draining else log.warning  # one that is drained may have left
        note("a worker did not take the table", worker_id=record.worker_id, epoch=epoch, error=str(error))
        return None
    return record.boot_id, record.draining
