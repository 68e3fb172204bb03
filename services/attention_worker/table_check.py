"""Whether this worker may believe a placement table: its form, its epoch, and the workers that it names.

Rows go to the addresses of a table. With a cluster key only a router can have sent it; without one, a worker that the
last table did not name has to be known to Redis as well.
"""

from __future__ import annotations

from collections.abc import Collection

from caracal_proto.placement_pb2 import Endpoint, Table

from services.membership.checks import epoch_violation, table_violation
from services.membership.redis import Membership, RedisUnavailable

Named = frozenset[tuple[str, str, str]]  # the workers of a table, by all that identifies one run of them


def named_by(table: Table) -> Named:
    return frozenset(map(_key, table.workers))


class TableCheck:
    """The checks of one attention worker. `signed`: whether calls and records are, with a cluster key."""

    def __init__(self, membership: Membership, signed: bool) -> None:
        self._membership, self._signed = membership, signed

    async def violation(self, table: Table, epoch: int, named: Named) -> str:
        """Why a table is rejected by a worker whose last one has this epoch and names these; empty when it is not."""
        if why := table_violation(table) or await self._epoch_violation(table.epoch, epoch):
            return why
        unknown = [worker for worker in table.workers if _key(worker) not in named]
        return "" if self._signed or not unknown else await self._unknown_violation(unknown)

    async def _epoch_violation(self, epoch: int, own: int) -> str:
        why = epoch_violation(epoch, own)
        if not why:
            return ""
        try:  # a worker that is new, or was away for long, is given far higher ones
            return epoch_violation(epoch, max(own, await self._membership.table_epoch()))
        except RedisUnavailable:
            return why

    async def _unknown_violation(self, unknown: Collection[Endpoint]) -> str:
        """Why these are no workers of the cluster; empty when they are, or when Redis cannot be asked."""
        try:
            leases = await self._membership.named("expert", [worker.worker_id for worker in unknown])
            left = [
                worker
                for worker in unknown
                if (lease := leases.get(worker.worker_id)) is None
                or (lease.boot_id, lease.address) != (worker.boot_id, worker.address)
            ]
            published = await self._membership.read_table() if left else None
        except RedisUnavailable:
            return ""  # a table that is new while Redis is away names workers that were known before
        there = named_by(published) if published is not None else frozenset()
        wrong = next((worker for worker in left if _key(worker) not in there), None)
        if wrong is None:
            return ""
        return f"the table names {wrong.worker_id} at {wrong.address}, which is no worker of this cluster"


def _key(worker: Endpoint) -> tuple[str, str, str]:
    return worker.worker_id, worker.boot_id, worker.address
