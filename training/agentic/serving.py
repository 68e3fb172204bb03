"""A cluster on this machine for roll-outs, as `caracal up` starts one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.local.cluster import LocalCluster
from services.local.settings import LocalSettings

READY_S = 120.0


@contextmanager
def serving(model: Path) -> Iterator[str]:
    """Yields the URL of a cluster that serves the model. Raises StartFailed."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="cluster", daemon=True)
    thread.start()

    async def start() -> LocalCluster:
        cluster = LocalCluster(LocalSettings(model=model, port=0))
        try:
            await cluster.start()
            await cluster.ready(READY_S)
        except BaseException:
            await cluster.stop()
            raise
        return cluster

    try:
        cluster = asyncio.run_coroutine_threadsafe(start(), loop).result()
        keeping = asyncio.run_coroutine_threadsafe(cluster.run(), loop)
        try:
            yield cluster.urls[0]
        finally:
            keeping.cancel()
            asyncio.run_coroutine_threadsafe(cluster.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
