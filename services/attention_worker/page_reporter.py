"""Tells routers, by a hint in Redis, which pages this worker has cached."""

from __future__ import annotations

import asyncio
import time

import structlog

from services.attention_worker.engine.pages import PagePool
from services.attention_worker.hint_pace import HintPace
from services.membership.page_hints import HINT_MS, PageHints
from services.membership.redis import RedisUnavailable
from services.prefixes.page_filter import PageFilter
from services.prefixes.page_hint import PageHint

log = structlog.get_logger(__name__)

REPEAT_S = HINT_MS / 3000  # an unchanged hint is written so often, so that it does not expire


class PageReporter:
    """Writes the hint when the pages have changed, large ones less often."""

    def __init__(self, hints: PageHints, worker_id: str, boot_id: str, pages: PagePool) -> None:
        self._hints, self._worker_id, self._boot_id, self._pages = hints, worker_id, boot_id, pages
        self._pace = HintPace(REPEAT_S)

    async def run(self) -> None:
        """Writes until cancelled; while Redis is away routers keep what they know."""
        while True:
            try:
                await self.report()
            except RedisUnavailable as error:
                log.debug("redis is unavailable, the hint of cached pages is not written", error=str(error))
            await asyncio.sleep(self._pace.pause_s)

    async def report(self) -> None:
        """Writes the hint if there is a reason to. Raises RedisUnavailable."""
        version = self._pages.changes
        if not self._pace.due(version, time.monotonic()):
            return
        pages = await asyncio.to_thread(PageFilter.over, self._pages.names())
        await self._hints.write(self._worker_id, PageHint(self._boot_id, self._pages.page_size, version, pages))
        self._pace.wrote(version, len(pages.bits), time.monotonic())
