"""Lists the attention workers, and counts the routers, by their leases in Redis."""

from __future__ import annotations

from collections.abc import Sequence

from services.membership.class_hint import ClassHint
from services.membership.numerics_class import is_of
from services.membership.record import WorkerRecord
from services.membership.redis import Membership
from services.router.introductions import Introductions
from services.router.requests.worker_choice import AttentionWorkerView


async def list_attention_workers(membership: Membership, introductions: Introductions) -> list[AttentionWorkerView]:
    """Returns the attention workers that have a lease and have said who they are. Raises RedisUnavailable."""
    leased = await membership.workers("attention", counts=True)
    hints = await membership.generations.read()
    return views_of(await introductions.admitted("attention", leased), hints)


def views_of(records: Sequence[WorkerRecord], hints: Sequence[ClassHint]) -> list[AttentionWorkerView]:
    """The workers as routers see them; one that computes wrongly serves on while no other one of its class does."""

    def hint_of(record: WorkerRecord) -> tuple[int, bool]:
        its = (
            (number, one.ended) for number, one in enumerate(hints) if is_of(record.numerics_class, one.numerics_class)
        )
        return next(its, (0, False))

    sound = {record.numerics_class for record in records if record.serving and not record.quarantined}
    return [as_view(record, *hint_of(record), record.numerics_class in sound) for record in records]


class RouterCount:
    """How many routers there are, as one of them sees it."""

    def __init__(self, membership: Membership, introductions: Introductions, worker_id: str) -> None:
        self._membership, self._introductions, self._worker_id = membership, introductions, worker_id
        self._last = 1

    async def read(self) -> int:
        """Counts this router, and those with a lease that have said who they are. Raises RedisUnavailable.

        While this router cannot renew its own lease, it takes none of them for gone: theirs lapse for the same reason.
        """
        found = await self._membership.workers("router")
        others = [record for record in found if record.worker_id != self._worker_id]
        count = 1 + len(await self._introductions.admitted("router", others))
        self._last = max(count, self._last) if self._membership.refuses_writes else count
        return self._last


def as_view(record: WorkerRecord, generation: int, ended: bool, others: bool) -> AttentionWorkerView:
    """An attention worker as its lease describes it; for the others see AttentionWorkerView.

    `others`: whether a worker of its class that computes as it should takes sequences.
    """
    stats = record.stats
    return AttentionWorkerView(
        worker_id=record.worker_id,
        address=record.address,
        boot_id=record.boot_id,
        numerics_class=record.numerics_class,
        numerics=tuple(record.numerics.items()),
        epoch=record.epoch,
        draining=record.draining or record.stands_still,
        load=stats.get("running", 0.0) + stats.get("waiting", 0.0),
        kv_usage=stats.get("kv_pages_used", 0.0) / max(1.0, stats.get("kv_pages_total", 0.0)),
        generation=generation,
        ended=ended,
        wrong=bool(record.quarantined) and others,
        expert_differences=stats.get("expert_differences", 0.0),
    )
