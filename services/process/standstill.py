"""Watches a worker's computing thread: while it stands still, what needs it goes elsewhere."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection

import structlog

from services.process.thread_watch import LEAVES_S, LOOK_S, Pace, ProgressWatch, ThreadWatch

log = structlog.get_logger(__name__)

EXIT_STATUS = 70  # EX_SOFTWARE


class Standstill:
    """`thread`: the native id of the one that has something to do, or None; `changed` hears whether it stands still, or
    computes without getting anywhere.

    A process whose thread stands still for LEAVES_S ends, to be started again: a lock that nobody gives back is
    not worth waiting for.
    """

    def __init__(
        self,
        what: str,
        thread: Callable[[], int | None],
        changed: Callable[[bool], Awaitable[None]],
        beside: Collection[int] = (),
        leaves_s: float = LEAVES_S,
        *,
        pace: Pace,
    ) -> None:
        """`what`: the thread, as the log names it. `beside`: processes that it works with, and may wait for.

        `pace`: its progress, and how much CPU time it may use without any.
        """
        self._what, self._thread, self._changed, self._leaves_s = what, thread, changed, leaves_s
        self._watch, self._progress, self._pace = ThreadWatch(beside=beside), ProgressWatch(), pace

    async def run(self) -> None:
        """Looks until cancelled."""
        since: float | None = None
        while True:
            await asyncio.sleep(LOOK_S)
            thread = self._thread()
            stopped, nowhere = self._watch.look(thread), self._progress.look(thread, *self._pace())
            still = stopped or nowhere
            if still and since is None:
                since = time.monotonic()
                what = "stands still" if stopped else "computes and gets nowhere"
                log.error(f"a thread {what}, its work goes elsewhere", thread=self._what)
                await self._changed(True)
            elif not still and since is not None:
                log.warning("the thread goes on", thread=self._what, after_s=round(time.monotonic() - since, 1))
                since = None
                await self._changed(False)
            elif still and since is not None and time.monotonic() - since > self._leaves_s:
                log.critical("the thread does not go on, the process ends", thread=self._what)
                os._exit(EXIT_STATUS)  # nothing ends in order: whoever would wait for the thread waits for ever
