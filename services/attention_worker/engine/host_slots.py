"""The second tier of cached pages: slots in host memory for named pages whose place was needed. No torch, no I/O.

What is decided here is carried out later, in the same order, before the next step (`kv_cache.HostPages`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Move(NamedTuple):
    """A copy of one page: out to a slot, or in from it."""

    page: int
    slot: int
    out: bool


class HostSlots:
    """Which slot has which page, by name; the one that was not used for longest makes room."""

    def __init__(self, slots: int) -> None:
        self.loads = 0
        self._slot: OrderedDict[bytes, int] = OrderedDict()  # the longest unused is first
        self._free = list(range(slots))[::-1]
        self._moves: list[Move] = []

    def __contains__(self, name: bytes) -> bool:
        return name in self._slot

    def __len__(self) -> int:
        return len(self._slot)

    def names(self) -> list[bytes]:
        """All names, from any thread."""
        return list(self._slot)

    def store(self, name: bytes, page: int) -> None:
        """Keeps what a page holds, if there is a slot for it."""
        if name in self._slot:
            self._slot.move_to_end(name)
        elif self._free or self._slot:
            slot = self._free.pop() if self._free else self._slot.popitem(last=False)[1]
            self._slot[name] = slot
            self._moves.append(Move(page, slot, True))

    @contextmanager
    def loading(self, names: Iterable[bytes]) -> Iterator[dict[bytes, int]]:
        """The slots of these names, as far as they are here, which make no room until the block ends."""
        held = {name: slot for name in names if (slot := self._slot.pop(name, None)) is not None}
        try:
            yield held
        finally:
            self._slot |= held

    def load(self, slot: int, page: int) -> None:
        """Copies a slot into a page. The slot keeps it."""
        self._moves.append(Move(page, slot, False))
        self.loads += 1

    def take_moves(self) -> list[Move]:
        """What is to be copied before the next step, in this order."""
        moves, self._moves = self._moves, []
        return moves

    def clear(self) -> None:
        """Forgets everything: what was to be copied was not."""
        self._free += self._slot.values()
        self._slot.clear()
        self._moves.clear()
