"""The second tier of cached pages: host memory keeps named pages that had to make room. No torch, no I/O.

What is decided here is carried out later, in the same order, before the next step (`kv_cache.HostPages`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

IN, OUT, RECEIVED = range(3)  # kinds of copies


class Move(NamedTuple):
    """A copy of one page: out to a place, in from it, or in from where a page lies that another worker has sent."""

    page: int
    place: int
    kind: int


class HostTier:
    """Which place has which page, by name; the one that was not used for longest makes room."""

    def __init__(self, places: int) -> None:
        self.loads = 0
        self._place: OrderedDict[bytes, int] = OrderedDict()  # the longest unused is first
        self._free = list(range(places))[::-1]
        self._moves: list[Move] = []
        self._received: list[bytes] = []

    def __contains__(self, name: bytes) -> bool:
        return name in self._place

    def __len__(self) -> int:
        return len(self._place)

    def names(self) -> list[bytes]:
        """All names, from any thread."""
        return list(self._place)

    def store(self, name: bytes, page: int) -> None:
        """Keeps what a page holds, if there is a place for it."""
        if name in self._place:
            self._place.move_to_end(name)
        elif self._free or self._place:
            place = self._free.pop() if self._free else self._place.popitem(last=False)[1]
            self._place[name] = place
            self._moves.append(Move(page, place, OUT))

    def drop(self, name: bytes) -> None:
        """Forgets one page, if it is here."""
        if (place := self._place.pop(name, None)) is not None:
            self._free.append(place)

    @contextmanager
    def loading(self, names: Iterable[bytes]) -> Iterator[dict[bytes, int]]:
        """The places of these names, as far as they are here, which make no room until the block ends."""
        held = {name: place for name in names if (place := self._place.pop(name, None)) is not None}
        try:
            yield held
        finally:
            self._place |= held

    def load(self, place: int, page: int) -> None:
        """Copies a place into a page. The place keeps it."""
        self._moves.append(Move(page, place, IN))
        self.loads += 1

    def receive(self, page: int, latents: bytes) -> None:
        """Copies what another worker has sent into a page."""
        self._moves.append(Move(page, len(self._received), RECEIVED))
        self._received.append(latents)

    @property
    def receiving(self) -> bool:
        """Whether copies wait that hold what was received in memory."""
        return bool(self._received)

    def place(self, name: bytes) -> int | None:
        """The place that has this page already."""
        place = self._place.get(name)
        return None if any(move.kind == OUT and move.place == place for move in self._moves) else place

    def awaited(self) -> set[int]:
        """The pages into which something is still to be copied."""
        return {move.page for move in self._moves if move.kind != OUT}

    def take_received(self) -> list[bytes]:
        """What the copies of kind RECEIVED are made of, by their place."""
        received, self._received = self._received, []
        return received

    def take_moves(self) -> list[Move]:
        """What is to be copied before the next step, in this order."""
        moves, self._moves = self._moves, []
        return moves

    def clear(self) -> None:
        """Forgets everything: what was to be copied was not."""
        self._free += self._place.values()
        self._place.clear()
        self._moves.clear()
        self._received.clear()
