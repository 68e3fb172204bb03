"""Attention workers as their leases describe them."""

from __future__ import annotations

from collections.abc import Sequence

from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable
from services.router.requests.attention_workers import DirectoryUnavailable
from services.router.requests.worker_choice import AttentionWorker


class LeaseDirectory:
    """The directory of a real cluster."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    async def attention_workers(self) -> Sequence[AttentionWorker]:
        """Raises DirectoryUnavailable while Redis is away."""
        try:
            return [as_worker(record) for record in await self._membership.workers("attention")]
        except RedisUnavailable as error:
            raise DirectoryUnavailable(str(error)) from None


def as_worker(record: WorkerRecord) -> AttentionWorker:
    stats = record.stats
    return AttentionWorker(
        worker_id=record.worker_id,
        address=record.address,
        boot_id=record.boot_id,
        numerics_class=record.numerics_class,
        epoch=record.epoch,
        draining=record.draining,
        load=stats.get("running", 0.0) + stats.get("waiting", 0.0),
        kv_usage=stats.get("kv_pages_used", 0.0) / max(1.0, stats.get("kv_pages_total", 0.0)),
    )
