"""Who gets the next free place of the attention workers. Pure: no clock, no tasks.

The next one goes to the caller that holds fewest, for its weight; of equals, to the one that was served longest ago.
What a sequence will cost is not known before its end, and what a client says of it (max_tokens) is a guess; but places
are what everybody waits for, and a caller holds one for as long as its sequence takes.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Generic, TypeVar

from services.router.requests.callers import Caller

Item = TypeVar("Item")
KEPT = 16  # one place of so many is kept for callers that hold few


class FairQueue(Generic[Item]):
    """What waits, by caller, and how many places each caller holds."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Caller, deque[Item]] = OrderedDict()  # the caller that was served last is last
        self.held: Counter[Caller] = Counter()
        self.in_use = self.length = 0

    @property
    def callers(self) -> int:
        """How many callers wait."""
        return len(self._waiting)

    def waiting(self, caller: Caller) -> int:
        return len(self._waiting.get(caller, ()))

    def push(self, caller: Caller, item: Item) -> None:
        self._waiting.setdefault(caller, deque()).append(item)
        self.length += 1

    def remove(self, caller: Caller, item: Item) -> None:
        """Takes back what waits no more."""
        self._waiting[caller].remove(item)
        self._shortened(caller)

    def pop(self, capacity: int) -> Item | None:
        """Gives the next place away, if one of `capacity` is free for whoever is next."""
        caller = min(self._waiting, key=lambda caller: self.held[caller] / caller.weight, default=None)
        if caller is None or not self._may_have(caller, capacity):
            return None
        item = self._waiting[caller].popleft()
        self._waiting.move_to_end(caller)
        self._shortened(caller)
        self.held[caller] += 1
        self.in_use += 1
        return item

    def release(self, caller: Caller) -> None:
        """Takes a place back."""
        self.in_use -= 1
        self.held[caller] -= 1
        if not self.held[caller]:
            del self.held[caller]

    def _may_have(self, caller: Caller, capacity: int) -> bool:
        kept = capacity // KEPT
        return self.in_use < (capacity if self.held[caller] < kept else capacity - kept)

    def _shortened(self, caller: Caller) -> None:
        self.length -= 1
        if not self._waiting[caller]:
            del self._waiting[caller]
