"""Looks up where a prompt is cached, in slices that hold the event loop for a fraction of a millisecond."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from services.prefixes.page_names import PageNames, root_name
from services.router.requests.prefix_hints import PrefixHints
from services.router.requests.worker_choice import AttentionWorkerView

MOST_PAGES = 512  # of a prompt that are looked at
SLICE_PAGES = 32  # that are hashed at a time


class PrefixLookup:
    """One prompt's pages, by name, and who has them. Nothing is hashed while no worker has given a hint. `now`: the
    hints' clock."""

    def __init__(
        self, hints: PrefixHints, ids: Sequence[int], salt: bytes, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._hints, self._ids, self._salt, self._now = hints, ids, salt, now
        self._names: dict[tuple[str, int], list[bytes]] = {}  # by numerics class and page size

    async def cached_tokens(self, workers: Sequence[AttentionWorkerView]) -> dict[str, int]:
        """How many tokens of the prompt each worker seems to have cached, by worker id."""
        found, now = {}, self._now()
        for worker in workers:
            if size := self._hints.page_size(worker.worker_id, worker.boot_id):
                names = await self._names_for(worker.numerics_class, size)
                found[worker.worker_id] = size * self._hints.cached(worker.worker_id, names, now)
        return found

    def sent_to(self, worker: AttentionWorkerView) -> None:
        """Notes that the prompt goes to the worker, if it was looked up there."""
        size = self._hints.page_size(worker.worker_id, worker.boot_id)
        if names := self._names.get((worker.numerics_class, size)):
            self._hints.sent(worker.worker_id, names, self._now())

    async def _names_for(self, numerics_class: str, page_size: int) -> list[bytes]:
        key = numerics_class, page_size
        if key not in self._names:
            pages = PageNames(root_name(numerics_class, page_size, self._salt), page_size)
            most = min(MOST_PAGES, (len(self._ids) - 1) // page_size)  # a last token is always computed
            for number in range(most):
                if number % SLICE_PAGES == SLICE_PAGES - 1:
                    await asyncio.sleep(0)
                pages.extend(self._ids)
            self._names[key] = pages.of(self._ids, most * page_size)
        return self._names[key]
