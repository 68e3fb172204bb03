"""Pages of sequences that draining workers have handed back, on their way to the workers where these go on.

Whether a sequence waits for its pages, how many come at once and when it is given up is decided by the rules of
`services/attention_worker/migration`. A transfer takes what the link's bandwidth makes of it, shared with the other
transfers that its two ends have when it begins, or what can be copied between steps, if that is longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from services.attention_worker.engine.scheduler import Scheduler
from services.attention_worker.migration.estimate import BEGIN_S, LEAST_SEEN_S, TransferRate, compute_s, too_slow
from services.attention_worker.migration.limits import AT_ONCE, HANDOVER_S, INSERT_BYTES, UNASKED_S
from services.simulator.deployment import Deployment
from services.simulator.life import Life

LOOK_S = 0.05  # between two looks whether a draining worker may go


@dataclass(slots=True, eq=False)
class Handover:
    """The pages that one draining worker keeps for others. `left` is called when it goes."""

    left: Callable[[], None]
    wanted: set[int] = field(default_factory=set)  # numbers of generations whose pages nobody has asked for yet
    calls: int = 0  # transfers under way
    asked_at: float = 0.0
    ended: bool = False

    async def wait(self, loop: asyncio.AbstractEventLoop, life: Life) -> None:
        """Keeps the worker until all pages were fetched or declined, or nobody asks for any; it may die meanwhile."""
        began = self.asked_at = loop.time()
        while (self.wanted or self.calls) and life.alive and loop.time() < began + HANDOVER_S:
            if not self.calls and loop.time() >= self.asked_at + UNASKED_S:
                break
            await asyncio.sleep(LOOK_S)
        self.ended = True
        self.left()


@dataclass(frozen=True, slots=True)
class Source:
    """Where a sequence's first `tokens` were computed."""

    handover: Handover
    tokens: int


@dataclass(slots=True, eq=False)
class _Wanted:
    """A sequence's tokens, and how many of them are here."""

    tokens: int
    done: int


class PageFetches:
    """One worker's. `step_s`: how long a step takes there now, 0 where nothing runs."""

    def __init__(
        self,
        scheduler: Scheduler,
        deployment: Deployment,
        step_s: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._pages, self._cost, self._chunk = scheduler.pages, scheduler.cost, scheduler.max_batch_tokens
        self._page_bytes, self._link = deployment.page_bytes, deployment.link
        self._step_s, self._loop = step_s, loop
        self._rate, self._turns = TransferRate(), asyncio.Semaphore(AT_ONCE)
        self._open: list[_Wanted] = []
        self._calls = 0
        self.migrated = self.computed = 0  # sequences whose pages have all come, and others
        self.pages = 0

    async def fetch(self, number: int, names: list[bytes], tokens: int, source: Source) -> None:
        """Brings the pages with these names of a sequence of so many tokens, as far as that is sooner."""
        handover, size = source.handover, self._pages.page_size
        there = names[: source.tokens // size]
        have = self._pages.cached(there)
        handover.wanted.discard(number)
        handover.asked_at = self._loop.time()
        wanted = _Wanted(tokens, have * size)
        self._open.append(wanted)
        came = 0
        try:
            came = await self._bring(wanted, there[have:], frozenset(there), handover)
        finally:
            self._open.remove(wanted)
            self.pages += came
            self.migrated += have + came == len(there)
            self.computed += have + came < len(there)

    async def _bring(self, wanted: _Wanted, missing: list[bytes], keep: frozenset[bytes], handover: Handover) -> int:
        needed_s, size = self._compute_s(wanted), int(len(missing) * self._page_bytes)
        if not missing or handover.ended or needed_s <= self._rate.seconds(size):
            return 0
        try:
            async with asyncio.timeout(needed_s):
                await self._turns.acquire()
        except TimeoutError:
            return 0
        handover.calls += 1
        self._calls += 1
        try:
            return await self._transfer(wanted, missing, keep, self._page_s(max(handover.calls, self._calls)))
        finally:
            handover.calls -= 1
            self._calls -= 1
            handover.asked_at = self._loop.time()
            self._turns.release()

    async def _transfer(self, wanted: _Wanted, missing: list[bytes], keep: frozenset[bytes], page_s: float) -> int:
        """Returns how many pages have come."""
        whole_s, passed_s, come = BEGIN_S + len(missing) * page_s, 0.0, len(missing)
        if whole_s > LEAST_SEEN_S:
            await asyncio.sleep(LEAST_SEEN_S)
            passed_s, seen = LEAST_SEEN_S, int((LEAST_SEEN_S - BEGIN_S) / page_s)
            wanted.done += seen * self._pages.page_size
            if too_slow(seen, len(missing) - seen, passed_s, self._compute_s(wanted)):
                whole_s, come = passed_s, seen
        await asyncio.sleep(whole_s - passed_s)
        self._rate.observe(int(come * self._page_bytes), whole_s)
        taken = 0
        while taken < come and self._pages.receive(missing[taken], b"", keep):
            taken += 1
        self._pages.host.take_moves()  # nothing has to be copied here
        self._pages.host.take_received()
        return taken

    def _page_s(self, sharing: int) -> float:
        """Seconds of a page: over a link that so many transfers share, or between steps."""
        return max(self._page_bytes * sharing / self._link.bytes_s, self._page_bytes / INSERT_BYTES * self._step_s())

    def _compute_s(self, wanted: _Wanted) -> float:
        ahead = self._open[: self._open.index(wanted) + 1]
        return compute_s(self._cost, ((each.done, each.tokens) for each in ahead), self._chunk)
