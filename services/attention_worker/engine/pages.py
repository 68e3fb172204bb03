"""The page numbers of the latent cache: which are free, which each running sequence has, and what those hold. No torch,
no I/O.

A full page may have a name (`services/prefixes/page_names.py`). Then it outlives its sequence, and other sequences may
share it, until it is the one that nobody has used for longest and a page is needed; it may have a second life in host
memory. Only pages without a name are written to: sequences get named ones for what they need not compute.
Legend: S rows of the page table (running sequences), X pages of a row.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from services.attention_worker.engine.host_tier import HostTier

SPARE_CHECKSUMS = 64  # of names that are nowhere any more, before they are looked for


class PagePool:
    """Allocates pages and keeps the page table. A row is one running sequence; its pages are in order."""

    def __init__(self, num_pages: int, page_size: int, rows: int, max_length: int, host_pages: int = 0) -> None:
        self.host = HostTier(host_pages)
        self.page_size = page_size
        self.total = num_pages
        self.table_SX: NDArray[np.int32] = np.full((rows, self.pages_for(max_length)), -1, np.int32)
        self.evictions = 0  # named pages whose place was needed
        self.changes = 0  # of what is named
        self._held = [0] * rows
        self._published = [0] * rows  # pages of a row, from its beginning, that have had their name
        self._free_rows = list(range(rows))[::-1]
        self._free = list(range(num_pages))[::-1]  # without a name
        self._users = [0] * num_pages  # rows that have a page
        self._name: dict[int, bytes] = {}
        self._page: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # named, and no row has it; the longest unused is first
        self._checksum_of: Callable[[int], int] | None = None
        self._checksums: dict[bytes, int] = {}  # of what pages held when they were published, by name
        self.damaged = 0  # named pages that did not hold that any more

    @property
    def used(self) -> int:
        """How many pages rows have."""
        return self.total - self.available

    @property
    def available(self) -> int:
        """How many pages could be allocated."""
        return len(self._free) + len(self._idle)

    @property
    def named(self) -> int:
        """How many pages have a name."""
        return len(self._page)

    def names(self) -> list[bytes]:
        """The names of all pages that have one, and of those in host memory, from any thread."""
        return [*self.host.names(), *list(self._page)]

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def cached(self, names: Sequence[bytes]) -> int:
        """How many of these names, from the first one on, pages have, or places in host memory."""
        for count, name in enumerate(names):
            if name not in self._page and name not in self.host:
                return count
        return len(names)

    def lacking(self, tokens: int, names: Sequence[bytes] = ()) -> int:
        """How many pages more it takes to `allocate` them."""
        in_use = sum((page := self._page.get(name)) is not None and self._users[page] > 0 for name in names)
        return self.pages_for(tokens) - in_use - self.available

    def freeing(self, names: Sequence[bytes]) -> Callable[[int], int]:
        """How many pages more are there for one that will have those with these names, as rows leave one by one."""
        users: dict[int, int] = {}
        shared = {page for name in names if (page := self._page.get(name)) is not None}

        def leaves(row: int) -> int:
            pages = self.table_SX[row, : self._held[row]].tolist()
            users.update((page, users.get(page, self._users[page]) - 1) for page in pages)
            return sum(not users[page] and page not in shared for page in pages)

        return leaves

    def allocate(self, tokens: int, names: Sequence[bytes] = ()) -> int | None:
        """Allocates a row with pages for `tokens` positions; None when there are not enough pages or rows.

        `names`: of pages that are `cached`; they are the row's first ones.
        """
        if not self._free_rows or self.lacking(tokens, names) > 0:
            return None
        shared = [page for name in names if (page := self._page.get(name)) is not None]
        row = self._free_rows.pop()
        for page in shared:
            self._use(page)
        self.table_SX[row, : len(names)] = shared if len(shared) == len(names) else self._loaded(names)
        self._held[row] = self._published[row] = len(names)
        self.grow(row, tokens)
        return row

    def _loaded(self, names: Sequence[bytes]) -> list[int]:
        """The pages with these names. Those that are not in use are new ones, which get what host memory has."""
        pages = []
        with self.host.loading(name for name in names if name not in self._page) as places:
            for name in names:
                page = self._page.get(name)
                if page is None:
                    page = self._take()
                    self._use(page)
                    self.host.load(places[name], page)
                    self._set_name(page, name)
                pages.append(page)
        return pages

    def check_with(self, checksum_of: Callable[[int], int]) -> None:
        """From now on what published pages hold has a checksum. `checksum_of`: of what a page holds now."""
        self._checksum_of = checksum_of

    def intact(self, names: Sequence[bytes]) -> bool:
        """Whether the pages with these names hold what they did when they were published; others lose their name."""
        if self._checksum_of is None:
            return True
        awaited, wrong = self.host.awaited(), []
        for name in names:
            page, known = self._page.get(name), self._checksums.get(name)
            if page is not None and known is not None and page not in awaited and self._checksum_of(page) != known:
                wrong.append(page)
        for page in wrong:
            self._drop_name(page)
            if self._idle.pop(page, 0) is None:
                self._free.append(page)
        self.damaged += len(wrong)
        return not wrong

    def grow(self, row: int, tokens: int) -> bool:
        """Extends a row to `tokens` positions; false, with nothing changed, when there are not enough pages."""
        held, wanted = self._held[row], self.pages_for(tokens)
        if wanted <= held:
            return True
        if wanted - held > self.available:
            return False
        for index in range(held, wanted):
            page = self._take()
            self._use(page)
            self.table_SX[row, index] = page
        self._held[row] = wanted
        return True

    def has(self, row: int, tokens: int) -> bool:
        """Whether a row has the pages of so many positions."""
        return self.pages_for(tokens) <= self._held[row]

    def shrink(self, row: int, tokens: int) -> None:
        """Frees a row's pages beyond `tokens` positions; nothing that is to be kept may have been written to them."""
        for index in range(self.pages_for(tokens), self._held[row]):
            self._release(int(self.table_SX[row, index]))
            self.table_SX[row, index] = -1
        self._held[row] = min(self._held[row], self.pages_for(tokens))

    def publish(self, row: int, names: Sequence[bytes]) -> None:
        """Names the row's first pages, which are full and computed. One whose name another page has gets none."""
        for index in range(self._published[row], len(names)):
            if names[index] not in self._page:
                page = int(self.table_SX[row, index])
                self._set_name(page, names[index])
                if self._checksum_of is not None:
                    self._checksums[names[index]] = self._checksum_of(page)
        self._published[row] = max(self._published[row], len(names))
        if len(self._checksums) > 2 * len(self._page) + len(self.host) + SPARE_CHECKSUMS:
            self._checksums = {n: one for n, one in self._checksums.items() if n in self._page or n in self.host}

    def share(self, row: int, start: int, names: Sequence[bytes]) -> int:
        """Gives the row, from page number `start` on, what is `cached` under these names; returns how many pages.

        What the row has written to those pages is dropped: it is a part of what the named ones hold.
        """
        assert start >= self._published[row], "pages that others may have are not replaced"
        count = 0
        for index, name in enumerate(names, start):
            own, page = int(self.table_SX[row, index]), self._page.get(name)
            if page is not None and not self.intact([name]):
                break
            if page is not None:
                self._use(page)
                self.table_SX[row, index] = page
                self._release(own)
            elif name in self.host:
                with self.host.loading([name]) as places:
                    self.host.load(places[name], own)
                self._set_name(own, name)
            else:
                break
            count += 1
        self._published[row] = max(self._published[row], start + count if count else 0)
        return count

    def held(self, names: Sequence[bytes]) -> list[tuple[int, bool]]:
        """Where the pages with these names are, up to the first that is nowhere.

        Each a number, and whether it is that of a place in host memory. One that is still to be copied is nowhere yet.
        """
        found, awaited = list[tuple[int, bool]](), self.host.awaited()
        for name in names:
            page = self._page.get(name)
            if page is not None and page not in awaited:
                found.append((page, False))
            elif (place := self.host.place(name)) is not None:
                found.append((place, True))
            else:
                break
        return found

    def receive(self, name: bytes, latents: bytes, keep: Collection[bytes]) -> bool:
        """Caches a page that another worker has sent, unless it is here; false when that would cost one of `keep`."""
        if name in self._page:
            return True
        if not self._free and (not self._idle or self._name[next(iter(self._idle))] in keep):
            return False
        page = self._take()
        self.host.receive(page, latents)
        self._set_name(page, name)
        self._idle[page] = None
        return True

    def refresh(self, names: Sequence[bytes]) -> None:
        """Notes that these pages, of one sequence, are about to be used: its last ones make room first."""
        for name in reversed(names):
            page = self._page.get(name)
            if page is not None and page in self._idle:
                self._idle.move_to_end(page)

    def forget(self, row: int) -> None:
        """Takes the names of the row's pages away: what they hold is not to be shared."""
        for page in self.table_SX[row, : self._held[row]].tolist():
            self._drop_name(page)

    def forget_all(self) -> None:
        """Takes all names away."""
        self._free += self._idle
        self._idle.clear()
        self._name.clear()
        self._page.clear()
        self._checksums.clear()
        self.host.clear()
        self.changes += 1

    def free(self, row: int) -> None:
        """Frees a row. Its named pages stay cached; the last ones, which need those before them, go first."""
        held = self._held[row]
        assert held, f"row {row} has no pages"
        for page in reversed(self.table_SX[row, :held].tolist()):
            self._release(page)
        self.table_SX[row, :held] = -1
        self._held[row] = self._published[row] = 0
        self._free_rows.append(row)

    def _set_name(self, page: int, name: bytes) -> None:
        self._name[page], self._page[name] = name, page
        self.changes += 1

    def _drop_name(self, page: int) -> None:
        if (name := self._name.pop(page, None)) is not None:
            del self._page[name]
            self._checksums.pop(name, None)
            self.host.drop(name)
            self.changes += 1

    def _use(self, page: int) -> None:
        self._users[page] += 1
        self._idle.pop(page, None)

    def _release(self, page: int) -> None:
        self._users[page] -= 1
        if self._users[page]:
            return
        if page in self._name:
            self._idle[page] = None
        else:
            self._free.append(page)

    def _take(self) -> int:
        """A page that nobody has; the named one that was not used for longest if there are no others."""
        if self._free:
            return self._free.pop()
        page, _ = self._idle.popitem(last=False)
        name = self._name.pop(page)
        del self._page[name]
        self.host.store(name, page)
        self.evictions += 1
        self.changes += 1
        return page
