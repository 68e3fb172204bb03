"""What this router takes on: bounds that are checked before any work, and a fair queue for the workers' places.

A request is refused as soon as it comes, or not at all: 429 to a caller that has more than its share here, 503 while
the cluster is full. What was accepted waits for a place of an attention worker, for at most `queue_timeout_s`, and goes
to its end once one of its sequences has begun.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.router.requests.admission_metrics import AdmissionMetrics
from services.router.requests.callers import Caller
from services.router.requests.errors import Overloaded, RouterError, TooManyRequests
from services.router.requests.fair_queue import FairQueue
from services.router.requests.worker_capacity import Capacity

if TYPE_CHECKING:
    from services.router.access.control import KeyUse

QUEUED_PER_PLACE = 4  # sequences that may wait for each place
MIN_SEQUENCES, MIN_TOKENS = 512, 1 << 20  # of all open requests, however small the cluster is
TOKENS_PER_CACHED = 16  # tokens that open requests may come to, for each that the workers' caches hold
MAX_BYTES = 64 << 20  # of bodies that are being read and checked
FIRST_BYTES = 64 << 10  # of a body that count before they come; the rest would be room that costs nothing to hold
RATE_S = 10.0  # over which the ends of sequences are counted
LONGEST_RETRY_S = 60

KINDS = ("sequences", "tokens", "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """How long a request may wait for its first place, and how many sequences may be open; 0 = by the places."""

    queue_timeout_s: float = 30.0
    max_sequences: int = 0


class Bound:
    """One kind of thing that open requests take, of which there is at most so much, and a share of that for each."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.total = 0
        self._by: Counter[Caller] = Counter()

    def rejection(self, caller: Caller, more: int, most: int) -> str | None:
        """Returns who is at fault when `more` cannot be had: the "caller", or the "cluster".

        A caller may have half. The last eighth is for callers that have next to nothing, so that some that have a lot
        do not shut them out.
        """
        held, its, total = self._by[caller], self._by[caller] + more, self.total + more
        if its > most // 2 and held:
            return "caller"
        if total > most and self.total:
            return "cluster"
        if total > most - most // 8 and its > most // 32 and self.total:
            return "caller" if held > most // 16 else "cluster"
        return None

    def add(self, caller: Caller, amount: int) -> None:
        self.total += amount
        self._by[caller] += amount
        if not self._by[caller]:
            del self._by[caller]


@dataclass(eq=False)
class Visit:
    """What one request has been granted. It ends with the request."""

    admission: Admission
    caller: Caller
    taken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    begun: bool = False  # a sequence of it has had a place
    use: KeyUse | None = None  # of the quota of its API key

    def reserve(self, sequences: int, prompt: int, tokens: int) -> None:
        """Takes on the request's sequences, once they are known. Raises TooManyRequests or Overloaded.

        `tokens`: what they may come to, `prompt` of them in prompts.
        """
        self.admission.take(self, bytes=0, sequences=sequences, tokens=tokens)
        if self.use is not None:
            self.use.reserve(prompt, tokens)

    def read(self, size: int) -> None:
        """Counts the body's bytes, of which so many have come. Raises TooManyRequests or Overloaded."""
        if size > self.taken["bytes"]:
            self.admission.take(self, bytes=size)

    @property
    def tokens_left(self) -> float | None:
        """The tokens that the request's API key has left; None without a limit."""
        return self.use.tokens_left if self.use is not None else None

    def generated(self, tokens: int) -> None:
        """Counts the tokens that a sequence has had in the end, as `usage` counts them: those behind a stop string that
        came along, because a worker sends several at once, are none of them.
        """
        if self.use is not None:
            self.use.used += tokens

    def place(self, priority: int = 0) -> Place:
        """A place in the queue for one sequence. Of the caller's, the lowest priority is served first."""
        return Place(self, priority)


class Place:
    """The place of one sequence in the queue, then at a worker, until it leaves."""

    def __init__(self, visit: Visit, priority: int) -> None:
        self.visit, self.priority = visit, priority
        self.asked_at = visit.admission.now()
        self.ready: asyncio.Future[None] | None = None
        self.held = self.left = False

    async def granted(self) -> None:
        """Waits for its turn. Raises Overloaded when that does not come in time, and no sequence has begun before.

        Nothing once it was left: the client may still be reading what the worker has sent.
        """
        if not (self.held or self.left):
            await self.visit.admission.wait(self)

    def abort(self, error: RouterError) -> None:
        """Ends its wait with `error`, if it waits."""
        self.visit.admission.abort(self, error)

    def leave(self) -> None:
        """Gives it back, for good: the worker needs it no more."""
        self.left = True
        self.visit.admission.leave(self)


_visit: ContextVar[Visit | None] = ContextVar("visit", default=None)


class Admission:
    """One per router process; everything runs on its event loop. `capacity` is asked whenever it matters.

    `now`: the clock of that loop, in seconds. `cold_s`: how long a request may wait for its first place at least, which
    is longer than the limit while there is no worker.
    """

    def __init__(
        self,
        capacity: Callable[[], Capacity],
        metrics: AdmissionMetrics,
        limits: AdmissionLimits,
        now: Callable[[], float] = time.monotonic,
        cold_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._capacity, self._metrics, self._limits, self.now = capacity, metrics, limits, now
        self._cold_s = cold_s
        self._queue: FairQueue[Place] = FairQueue()
        self._bounds = {kind: Bound(kind) for kind in KINDS}
        self._ends: deque[float] = deque()
        self._known: Capacity | None = None  # what the next was computed from
        self._known_most: dict[str, int] = {}
        metrics.show(lambda: self._queue.length, lambda: self._queue.in_use, lambda: self._capacity().places)

    def visit(
        self, caller: Caller, size: int, use: KeyUse | None = None, *, unread: bool = False
    ) -> AbstractContextManager[Visit]:
        """Takes on a request whose body has `size` bytes, until the returned block ends, and with it `use`. Raises
        TooManyRequests or Overloaded. Within the block it is the `current_visit`.

        `unread`: the body is still to come, and counts as it does (`Visit.read`).
        """
        visit = Visit(self, caller, use=use)
        try:
            if refused := self.rejection(caller, size):
                raise refused
            self.take(visit, bytes=min(size, FIRST_BYTES) if unread else size, sequences=1, tokens=0)
        except RouterError:
            if use is not None:
                use.end()
            raise
        return self._within(visit)

    @contextmanager
    def _within(self, visit: Visit) -> Iterator[Visit]:
        token = _visit.set(visit)
        try:
            yield visit
        finally:
            _visit.reset(token)
            for kind, amount in visit.taken.items():
                self._bounds[kind].add(visit.caller, -amount)
            if visit.use is not None:
                visit.use.end()

    def take(self, visit: Visit, **amounts: int) -> None:
        """Changes what a visit takes of each kind. Raises TooManyRequests or Overloaded, and changes nothing.

        One that is larger than a caller's share counts as the share: it may be the only one of its caller, but it does
        not keep everybody else out.
        """
        most = self._most()
        amounts = {kind: min(amount, most[kind] // 2) for kind, amount in amounts.items()}
        more = {kind: amount - visit.taken[kind] for kind, amount in amounts.items()}
        if refused := self._rejection(visit.caller, more, new=not visit.taken["sequences"]):
            raise refused
        for kind, amount in amounts.items():
            self._bounds[kind].add(visit.caller, amount - visit.taken[kind])
            visit.taken[kind] = amount

    @property
    def pressed(self) -> bool:
        """Whether anything waits, or a third of a bound is used up: only then a small request may be refused."""
        return self._queue.length > 0 or any(3 * self._bounds[kind].total > most for kind, most in self._most().items())

    def held(self, kind: str) -> int:
        """What all open requests take of a kind."""
        return self._bounds[kind].total

    @property
    def hurried(self) -> bool:
        """Whether bodies that come slowly take room that others may want: a third of what there is."""
        return 3 * self.held("bytes") > MAX_BYTES

    def rejection(self, caller: Caller, size: int) -> RouterError | None:
        """Returns why `visit` would refuse a request of so many bytes; None when it would not."""
        return self._rejection(caller, {"sequences": 1, "bytes": size}, new=True)

    def _rejection(self, caller: Caller, more: dict[str, int], *, new: bool) -> RouterError | None:
        most = self._most()
        for kind, amount in more.items():
            if amount > 0 and (who := self._bounds[kind].rejection(caller, amount, most[kind])):
                return self._refused(who, kind)
        if new and self._wait_s(caller) > self._limits.queue_timeout_s:
            return self._refused("cluster", "wait")
        return None

    async def wait(self, place: Place) -> None:
        """Waits until the place is given. Raises Overloaded."""
        visit = place.visit
        place.ready = asyncio.get_running_loop().create_future()
        self._queue.push(visit.caller, place, place.priority)
        self.give()
        began = self.now()
        try:
            while not place.ready.done():
                left_s = began + max(self._limits.queue_timeout_s, self._cold_s()) - self.now()
                # Another of its sequences may have begun meanwhile.
                if left_s <= 0 and not visit.begun:
                    raise self._refused("cluster", "timeout")
                await asyncio.wait([place.ready], timeout=None if visit.begun else left_s)
        finally:
            if not place.ready.done():
                self._queue.remove(visit.caller, place)
        place.ready.result()
        self._metrics.waited.observe(self.now() - place.asked_at)

    def abort(self, place: Place, error: RouterError) -> None:
        """Ends a place's wait with `error`, if it waits."""
        if place.ready is not None and not place.ready.done():
            self._queue.remove(place.visit.caller, place)
            place.ready.set_exception(error)

    def leave(self, place: Place) -> None:
        """Gives a place back, if it was given."""
        if place.held:
            place.held = False
            self._queue.release(place.visit.caller)
            self._ends.append(self.now())
            self.give()

    def give(self) -> None:
        """Gives free places away; to be called when there may be more of them."""
        places = self._capacity().places
        while (place := self._queue.pop(places)) is not None:
            place.held = place.visit.begun = True
            assert place.ready is not None
            place.ready.set_result(None)

    def _most(self) -> dict[str, int]:
        capacity = self._capacity()
        if capacity is self._known:
            return self._known_most
        sequences = max(MIN_SEQUENCES, (1 + QUEUED_PER_PLACE) * capacity.places)
        tokens = max(MIN_TOKENS, TOKENS_PER_CACHED * capacity.cached_tokens)
        most = {"sequences": self._limits.max_sequences or sequences, "tokens": tokens, "bytes": MAX_BYTES}
        self._known, self._known_most = capacity, most
        return most

    def _wait_s(self, caller: Caller) -> float:
        """How long a caller's next sequence is going to wait, by how fast others have ended of late."""
        ahead = min(self._queue.length, (1 + self._queue.waiting(caller)) * self._queue.callers)
        if not ahead:
            return 0.0
        now = self.now()
        while self._ends and self._ends[0] < now - RATE_S:
            self._ends.popleft()
        return ahead / len(self._ends) * RATE_S if self._ends else 0.0

    def _refused(self, who: str, why: str) -> RouterError:
        self._metrics.rejected(who, why).inc()
        retry_s = min(LONGEST_RETRY_S, max(1, math.ceil(self._queue.length / max(1, len(self._ends)) * RATE_S)))
        if who == "caller":
            return TooManyRequests("You have too many open requests here; please try again later.", retry_s)
        return Overloaded("The cluster has as many requests as it can serve now; please try again later.", retry_s)


def current_visit() -> Visit | None:
    """The visit of the request that this task works for."""
    return _visit.get()


def current_caller() -> Caller | None:
    """Who has sent the request that this task works for."""
    visit = _visit.get()
    return visit.caller if visit is not None else None
