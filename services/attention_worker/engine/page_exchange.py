"""Cached pages for other workers, and from them: what other threads ask of the cache, done between two steps.

Bytes of a page are those of all caches, one after the other. How they travel is left to `migration`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from services.attention_worker.engine.delivery import Delivery
from services.attention_worker.engine.kv_cache import KvCache
from services.attention_worker.engine.sequence import Sequence as Running

Result = TypeVar("Result")
Command = Callable[[], list[Delivery]]


class PageExchange:
    """Any thread may use it. `put`: into the inbox of the engine; false once that runs no more commands.

    Its futures raise RuntimeError then.
    """

    def __init__(self, cache: KvCache, put: Callable[[Command], bool]) -> None:
        self._cache, self._put = cache, put
        # Of each sequence that was evicted and not asked for yet: the names of its full pages, by the last of them.
        self.handed_over: dict[bytes, frozenset[bytes]] = {}

    @property
    def page_bytes(self) -> int:
        """The size of a page."""
        return self._cache.host.page_bytes

    def read(self, names: Sequence[bytes]) -> Future[Tensor]:
        """uint8 [pages, page_bytes]: the pages with these names, up to the first one that is not here."""
        return self._ask(lambda: self._cache.host.read(self._cache.pages.held(names)))

    def insert(self, pages: Sequence[tuple[bytes, bytes]], keep: Collection[bytes]) -> Future[bool]:
        """Caches pages, each a name and its bytes; false when there is no place for all, that is none but of `keep`."""
        return self._ask(lambda: all(self._cache.pages.receive(name, latents, keep) for name, latents in pages))

    def refresh(self, names: Sequence[bytes]) -> Future[None]:
        """Keeps the cached pages of one sequence longer than others that nobody uses."""
        return self._ask(lambda: self._cache.pages.refresh(names))

    def hand_over(self, sequences: Iterable[Running]) -> list[Delivery]:
        """Notes sequences that are about to be evicted, and continue elsewhere. A command of the engine."""
        for sequence in sequences:
            names = sequence.names.of(sequence.ids, sequence.cached) if sequence.names is not None else []
            if names:
                self.handed_over[names[-1]] = frozenset(names)
        return []

    def asked_for(self, names: Sequence[bytes]) -> None:
        """Notes that nobody else will ask for the sequence whose pages have these names, from the first on.

        A successor has as many tokens as were delivered, which may be fewer than were computed, and fill fewer pages.
        """
        for last, own in list(self.handed_over.items()):
            if last in names or (names and names[-1] in own):
                self.handed_over.pop(last, None)

    def _ask(self, ask: Callable[[], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        if not self._put(partial(_run, ask, future)):
            future.set_exception(RuntimeError("the engine has stopped"))
        return future


@torch.inference_mode()
def _run(ask: Callable[[], Result], future: Future[Result]) -> list[Delivery]:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(ask())
        except Exception as error:  # noqa: BLE001 - the engine's thread must outlive it
            future.set_exception(error)
    return []
