"""Waits until every worker of a cluster has its part of one table: the cluster itself serves before all have come."""

from __future__ import annotations

import asyncio
import time

from bench.processes import Cluster
from services.membership.redis import Membership

WAIT_S, LOOK_S = 60.0, 0.1


def wait_for_workers(target: Cluster, attention: int, experts: int, seconds: float = WAIT_S) -> None:
    """Raises TimeoutError when fewer have come to one table within so many seconds."""
    asyncio.run(_wait(target, {"attention": attention, "expert": experts}, seconds))


async def _wait(target: Cluster, counts: dict[str, int], seconds: float) -> None:
    membership, end = Membership(target.redis_url), time.monotonic() + seconds
    try:
        while True:
            records = [record for role in counts for record in await membership.workers(role)]
            epochs = {record.epoch for record in records}
            if len(records) == sum(counts.values()) and len(epochs) == 1 and epochs != {0}:
                return
            if time.monotonic() > end:
                raise TimeoutError(f"of {counts} workers {len(records)} have come, at epochs {sorted(epochs)}")
            await asyncio.sleep(LOOK_S)
    finally:
        await membership.close()
