"""Compares an attention worker's weights in memory, again and again, with what was read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from services.checkpoint.scrub import Region, Scrub


class WeightsChanged(Exception):
    """Weights in memory are not what was read: what the worker has computed since then may be wrong, and it ends."""


async def scrub(regions: Mapping[tuple[int, int], Region], round_s: float) -> None:
    """Goes through the regions once in so many seconds, until cancelled. Raises WeightsChanged."""
    loop, changed = asyncio.get_running_loop(), asyncio.Queue[str]()

    def found(region: Region) -> None:
        loop.call_soon_threadsafe(changed.put_nowait, region.name)
        running.stop()

    running = Scrub(regions, found, round_s)
    running.start()
    try:
        raise WeightsChanged(f"weights of {await changed.get()} have changed in memory: this worker ends, others go on")
    finally:
        running.stop()
