"""Time limits that the event loop's own lag does not use up."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

STEP_S = 0.05

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`. Raises TimeoutError, and cancels it, after `seconds` in which this loop could hear its end."""
    task = asyncio.ensure_future(work)
    try:
        if await ends_within(seconds, task):
            return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def ends_within(seconds: float, future: asyncio.Future[T]) -> bool:
    """Whether `future` ends within so many seconds in which this loop could hear its end. It goes on if it does not.

    The time is counted in short steps of the loop. One that ends late, because the loop was held up, counts as no
    longer than any other: whatever came meanwhile is read before the next step ends. On an idle loop it is wall time.
    """
    for _ in range(math.ceil(seconds / STEP_S)):
        done, _ = await asyncio.wait([future], timeout=STEP_S)
        if done:
            return True
    return False
