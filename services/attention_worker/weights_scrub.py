"""Compares an attention worker's weights in memory, again and again, with what was read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from services.checkpoint.scrub import Region, Scrub, ScrubCounters, memory_checksum


class WeightsChanged(Exception):
    """Weights in memory are not what was read: what the worker has computed since then may be wrong, and it ends."""


async def scrub(regions: Mapping[tuple[int, int], Region], round_s: float, counters: ScrubCounters) -> None:
    """Goes through the regions once in so many seconds, until cancelled. Raises WeightsChanged."""
    loop, changed = asyncio.get_running_loop(), asyncio.Queue[str]()

    def found(region: Region) -> None:
        loop.call_soon_threadsafe(changed.put_nowait, region.name)
        running.stop()

    running = Scrub(regions, found, round_s, counters)
    running.start()
    try:
        raise _changed(await changed.get())
    finally:
        running.stop()


async def compare(region: Region) -> None:
    """Goes through one region now. Raises WeightsChanged."""
    if await asyncio.to_thread(memory_checksum, region.tensors) != region.checksum:
        raise _changed(region.name)


def _changed(name: str) -> WeightsChanged:
    return WeightsChanged(f"weights of {name} have changed in memory: this worker ends, others go on")
