"""Who gets the next free place of the attention workers. Pure: no clock, no tasks.

The next one goes to the caller that holds fewest, for its weight; of equals, to the one that was served longest ago.
A caller that may not have the last places, which are kept for those that hold few, holds up nobody who may.
Of what one caller waits for, the lowest priority comes first; it counts for nothing beside other callers'.
What a sequence will cost is not known before its end, and what a client says of it (max_tokens) is a guess; but places
are what everybody waits for, and a caller holds one for as long as its sequence takes.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, OrderedDict
from operator import itemgetter
from typing import Generic, TypeVar

from services.router.requests.callers import Caller

Item = TypeVar("Item")
KEPT = 16  # one place of so many is kept for callers that hold few


class FairQueue(Generic[Item]):
    """What waits, by caller, and how many places each caller holds."""

    def __init__(self) -> None:
        # The caller that was served last is last; its items are in order, each with its priority.
        self._waiting: OrderedDict[Caller, list[tuple[int, Item]]] = OrderedDict()
        self._weights: dict[Caller, float] = {}  # of those that wait: the newest, for keys' weights may change
        self.held: Counter[Caller] = Counter()
        self.in_use = self.length = 0

    @property
    def callers(self) -> int:
        """How many callers wait."""
        return len(self._waiting)

    def waiting(self, caller: Caller) -> int:
        return len(self._waiting.get(caller, ()))

    def push(self, caller: Caller, item: Item, priority: int = 0) -> None:
        self._weights[caller] = caller.weight
        insort(self._waiting.setdefault(caller, []), (priority, item), key=itemgetter(0))
        self.length += 1

    def remove(self, caller: Caller, item: Item) -> None:
        """Takes back what waits no more."""
        waiting = self._waiting[caller]
        del waiting[next(place for place, (_, one) in enumerate(waiting) if one is item)]
        self._shortened(caller)

    def pop(self, capacity: int) -> Item | None:
        """Gives the next place away, if one of `capacity` is free for whoever is next."""
        may = [caller for caller in self._waiting if self._may_have(caller, capacity)]
        caller = min(may, key=lambda caller: self.held[caller] / self._weights[caller], default=None)
        if caller is None:
            return None
        _, item = self._waiting[caller].pop(0)
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
            del self._waiting[caller], self._weights[caller]
