"""What attention workers tell routers of the pages that they have cached, when and as the real ones do.

A worker writes its hint by its pace, and routers read all hints at a pace of their own: of the writings between two
readings only the last one is carried out. Pages of answers are named when a run of steps ends, not within it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from services.attention_worker.hint_pace import HintPace
from services.prefixes.page_filter import PageFilter
from services.prefixes.page_hint import PageHint
from services.router.requests.attention_workers import HINTS_S
from services.simulator.attention import SimulatedAttention


class _Report:
    """One run of a worker."""

    def __init__(self, now: float) -> None:
        self.pace, self.next_at = HintPace(math.inf), now  # a hint does not expire here
        self.hint: PageHint | None = None


class PrefixReports:
    """`workers` by id, whoever is there now."""

    def __init__(self, workers: Mapping[str, SimulatedAttention], loop: asyncio.AbstractEventLoop) -> None:
        self._workers, self._loop = workers, loop
        self._reports: WeakKeyDictionary[SimulatedAttention, _Report] = WeakKeyDictionary()

    async def run(self) -> None:
        """Has workers write their hints, for ever."""
        while True:
            read_at = self._loop.time() + HINTS_S
            for worker in self._workers.values():
                self._plan(worker, read_at)
            await asyncio.sleep(HINTS_S)

    def read(self) -> dict[str, PageHint]:
        """The hints of workers that serve, by worker id. With one worker alone nobody reads them."""
        serving = {worker: worker.view() for worker in self._workers.values()}
        found = [w for w, view in serving.items() if view.serving and w in self._reports]
        if len(found) < 2:
            return {}
        return {w.worker_id: hint for w in found if (hint := self._reports[w].hint) is not None}

    def _plan(self, worker: SimulatedAttention, read_at: float) -> None:
        report = self._reports.get(worker)
        if report is None:
            report = self._reports[worker] = _Report(self._loop.time())
        passed = math.floor((read_at - report.next_at) / report.pace.pause_s)
        if passed >= 0:
            self._loop.call_at(report.next_at + passed * report.pace.pause_s, self._write, worker, report)

    def _write(self, worker: SimulatedAttention, report: _Report) -> None:
        now, pages = self._loop.time(), worker.scheduler.pages
        if worker.life.alive and report.pace.due(pages.changes, now):
            found = PageFilter.over(pages.names())
            report.hint = PageHint(worker.boot_id, pages.page_size, pages.changes, found)
            report.pace.wrote(pages.changes, len(found.bits), now)
        report.next_at = now + report.pace.pause_s
