"""Clusters as `caracal up` runs them, for benchmarks: started, and waited for until all of them serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from services.local.cluster import LocalCluster
from services.local.settings import LocalSettings

MODEL = "bench"
START_S = 600.0


@asynccontextmanager
async def local_cluster(
    model: Path, spares: int, *, replicas: int = 2, routers: int = 2
) -> AsyncIterator[LocalCluster]:
    """Two workers of each role, without a prefix cache: what a dead worker had is computed again."""
    environment = {
        "CARACAL_MODEL_NAME": MODEL,
        "CARACAL_REPLICAS": str(replicas),
        "CARACAL_PREFIX_CACHE": "0",
    }
    settings = LocalSettings(
        model=model, port=0, attention=2, expert=2, routers=routers, spares=spares, environment=environment
    )
    async with running(settings) as local:
        yield local


@asynccontextmanager
async def running(settings: LocalSettings) -> AsyncIterator[LocalCluster]:
    """A cluster from when all of it serves; processes that end are started again."""
    local = LocalCluster(settings)
    try:
        await local.start()
        await local.ready(START_S)
        loop = asyncio.create_task(local.run())
        try:
            yield local
        finally:
            loop.cancel()
            with suppress(asyncio.CancelledError):
                await loop
    finally:
        await local.stop()


async def serving(local: LocalCluster) -> dict[str, str]:
    """The boot ids of the processes that serve, by name: of expert workers those in the published table, since
    their leases say so up to a second later."""
    records = [one for role in ("attention", "router") for one in await local.membership.workers(role)]
    table = await local.membership.read_table()
    experts = {worker.worker_id: worker.boot_id for worker in table.workers} if table is not None else {}
    return experts | {one.worker_id: one.boot_id for one in records if one.serving or one.role == "router"}


async def until_all_serve(
    local: LocalCluster, before: dict[str, str], names: tuple[str, ...], poll_s: float = 0.02
) -> None:
    """Waits until all processes serve, and `names` with other boot ids than before. Raises TimeoutError."""
    async with asyncio.timeout(START_S):
        while True:
            now = await serving(local)
            if len(now) == sum(local.counts.values()) and all(now[name] != before.get(name) for name in names):
                return
            await asyncio.sleep(poll_s)


async def until_spares_wait(local: LocalCluster) -> None:
    """Returns when no process is young, so that none is restarted late for having died young, and all spares wait."""
    async with asyncio.timeout(START_S):
        while True:
            if local.steady() and len(local.spares.ready) >= local.settings.spares:
                return
            await asyncio.sleep(0.02)
