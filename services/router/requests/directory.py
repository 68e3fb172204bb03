"""Lists the attention workers, and counts the routers, by their leases in Redis."""

from __future__ import annotations

from services.membership.record import WorkerRecord
from services.membership.redis import Membership
from services.router.introductions import Introductions
from services.router.requests.worker_choice import AttentionWorkerView


async def list_attention_workers(membership: Membership, introductions: Introductions) -> list[AttentionWorkerView]:
    """Returns the attention workers that have a lease and have said who they are. Raises RedisUnavailable."""
    leased = await membership.workers("attention", counts=True)
    hints = {one.numerics_class: (number, one.ended) for number, one in enumerate(await membership.generations.read())}
    return [
        _as_worker(record, *hints.get(record.numerics_class, (0, False)))
        for record in await introductions.admitted("attention", leased)
    ]


async def count_routers(membership: Membership, introductions: Introductions, worker_id: str) -> int:
    """Returns how many routers there are: this one, `worker_id`, and those with a lease that have said who they are.

    Raises RedisUnavailable.
    """
    others = [record for record in await membership.workers("router") if record.worker_id != worker_id]
    return 1 + len(await introductions.admitted("router", others))


def _as_worker(record: WorkerRecord, generation: int, ended: bool) -> AttentionWorkerView:
    stats = record.stats
    return AttentionWorkerView(
        worker_id=record.worker_id,
        address=record.address,
        boot_id=record.boot_id,
        numerics_class=record.numerics_class,
        numerics=tuple(record.numerics.items()),
        epoch=record.epoch,
        draining=record.draining,
        load=stats.get("running", 0.0) + stats.get("waiting", 0.0),
        kv_usage=stats.get("kv_pages_used", 0.0) / max(1.0, stats.get("kv_pages_total", 0.0)),
        generation=generation,
        ended=ended,
    )
