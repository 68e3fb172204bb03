"""A router: the attention workers that it knows, its streams to them, and the requests that it serves.

Who is listed, probed, given up and avoided is decided by the real `KeptWorkers`, `StallDetector`, `DamagedLinks` and
`choose_worker`.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from simulation.attention_worker import Begin, Cancel, News
from simulation.generation import Generation
from simulation.leader import Leader
from simulation.process_loop import loop_of
from simulation.router_attempt import RouterAttempt
from simulation.streams import DAMAGED, Stream
from simulation.timeline import Process
from simulation.worker import Described

from services.attention_worker.attempts import failure
from services.membership.record import WorkerRecord
from services.router.requests.attempt import AttemptFailed
from services.router.requests.attempt_stream import ENDED
from services.router.requests.attention_workers import CONNECT_S, DESCRIBE_S, HOLD_S, LOOK_S
from services.router.requests.damaged_links import DamagedLinks
from services.router.requests.directory import views_of
from services.router.requests.failover import DAMAGED as DATA_LOSS
from services.router.requests.probe_times import FEWEST
from services.router.requests.silent_workers import StallTimeouts
from services.router.requests.stall_detector import StallDetector
from services.router.requests.unlisted_workers import KeptWorkers
from services.router.requests.worker_choice import AttentionWorkerView

if TYPE_CHECKING:
    from simulation.client import Ask
    from simulation.world import World

REFRESH_S = 0.5
USUAL_S = 0.004  # in which a worker answers a probe
LINK_AVOIDED = "messages to an attention worker are damaged"
DRAIN_S = 2.0  # that streams may take to end once the router drains


class AttemptStream:
    """The stream to one run of an attention worker, with all attempts there; as the real AttemptStream."""

    def __init__(self, router: Router, stream: Stream) -> None:
        self._router, self._stream = router, stream
        self.ended, self.received_at = not stream.open[0], -math.inf
        self._attempts: dict[int, RouterAttempt] = {}
        self._last = 0
        stream.receive[0], stream.ended[0] = self._receive, self._end

    def begin(
        self, worker: AttentionWorkerView, generation: Generation, message: Callable[[int], Begin]
    ) -> RouterAttempt:
        """Opens an attempt; `message` makes its beginning, of its id."""
        self._last += 1
        begin, attempt_id = message(self._last), self._last
        attempt = RouterAttempt(generation, worker, begin.number, self._router.clock, lambda: self._cancel(attempt_id))
        if self.ended:
            self._router.after(0, lambda: attempt.fail(_lost(self._stream.why[0])))
        else:
            self._attempts[attempt_id] = attempt
            self._stream.send(0, begin)
        return attempt

    @property
    def damaged(self) -> bool:
        """Whether it ended since what came was not what was sent."""
        return self.ended and self._stream.why[0] == DAMAGED

    def close(self) -> None:
        self._stream.close(0)

    def _cancel(self, attempt_id: int) -> None:
        if self._attempts.pop(attempt_id, None) is not None:
            self._stream.send(0, Cancel(attempt_id))

    def _receive(self, news: News) -> None:
        self.received_at = self._router.clock()
        attempt = self._attempts.get(news.attempt_id)
        if attempt is None:
            return
        code = failure(news.ending)
        if code is not None and news.ending is not None:
            if news.tokens:
                attempt.arrive(news.number, news.tokens, None)
            attempt.fail(AttemptFailed(code, news.ending.message))
        else:
            attempt.arrive(news.number, news.tokens, news.ending)
        if attempt.complete:
            self._attempts.pop(news.attempt_id, None)

    def _end(self, why: str) -> None:
        self.ended = True
        attempts, self._attempts = self._attempts, {}
        for attempt in attempts.values():
            attempt.fail(_lost(why))


def _lost(why: str) -> AttemptFailed:
    return AttemptFailed(DATA_LOSS if why == DAMAGED else ENDED.code, why or ENDED.details, lost=True)


class Router(Process):
    def __init__(self, world: World, name: str) -> None:
        super().__init__(world.timeline, name)
        self.world = world

    def begin(self) -> None:
        self.views: tuple[AttentionWorkerView, ...] = ()
        self.open_on: Counter[str] = Counter()
        self.attempts: dict[RouterAttempt, None] = {}
        self.generations: dict[Generation, None] = {}
        self._streams: dict[str, AttemptStream] = {}
        self.draining = False
        self.timeouts = StallTimeouts()
        self.loop = loop_of(self, self.clock)
        self._stalls = StallDetector(self._answers, self._received_at, self.timeouts, self.clock, self._noticed)
        self._damaged, self._kept = DamagedLinks(), KeptWorkers()
        self._looks = 0
        self._met: set[str] = set()  # workers
        self._asking: set[str] = set()
        self._served_at = -math.inf
        self._waiting: list[Callable[[], None]] = []
        self.leader = Leader(self)
        self._refresh()
        self.every(LOOK_S, self._look)
        self.leader.begin()

    def clock(self) -> float:
        """What this router judges others by: the monotonic clock, but under a mutation."""
        return self.now + (self.clock_offset if self.world.mutation.reads_wall_clock else 0.0)

    @property
    def suspects(self) -> set[str]:
        """The workers that did not answer their last probe, or were late with it."""
        return self._stalls.suspects

    @property
    def avoided(self) -> set[str]:
        """The workers that get sequences only where there are no others."""
        return self.suspects | self._damaged.avoided(self.clock())

    @property
    def serving(self) -> bool:
        return any(view.serving for view in self.views)

    @property
    def holds(self) -> bool:
        """Whether new requests are taken."""
        return not self.draining and self.waits

    @property
    def waits(self) -> bool:
        """Whether requests wait for a worker: one was there not long ago."""
        return self.serving or self.clock() - self._served_at < HOLD_S

    def wait_for_change(self, seconds: float, then: Callable[[], None]) -> None:
        """Calls `then` when the list has been read again, or after so many seconds."""
        over = False

        def once() -> None:
            nonlocal over
            if not over:
                over = True
                then()

        self._waiting.append(once)
        self.after(seconds, once)

    def _refresh(self) -> None:
        self.world.redis.ask(self, lambda redis: redis.records("attention"), self._take_list)

    def _take_list(self, records: list[WorkerRecord] | None) -> None:
        now = self.clock()
        if records is None:
            self._kept.see((view.worker_id for view in self.views), now)
        else:
            listed = views_of(list(records), ())
            kept = self._kept.missing(listed, self.views, now)
            for view in kept:
                self._ask_unlisted(view, now)
            self.views = (*listed, *kept)
        if self.serving:
            self._served_at = now
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()
        self._meet([view.worker_id for view in self.views])
        self.loop.do(lambda: self._stalls.check(self.views, self.attempts, everybody=True))
        wrong = {view.boot_id for view in self.views if view.wrong}
        for attempt in [one for one in self.attempts if one.worker.boot_id in wrong]:
            attempt.abandon()
        self.after(REFRESH_S * (0.4 if not self.serving else 1 if self.attempts else 2), self._refresh)

    def _ask_unlisted(self, view: AttentionWorkerView, asked_at: float) -> None:
        if view.worker_id in self._asking:
            return
        self._asking.add(view.worker_id)

        def described(found: Described | None) -> None:
            self._asking.discard(view.worker_id)
            if found is not None and not found.draining:
                self._kept.see((view.worker_id,), asked_at)

        self.describe(view, described)

    def describe(self, view: AttentionWorkerView, done: Callable[[Described | None], None]) -> None:
        """Asks a run of a worker for what it says of itself; None when it does not answer in time."""
        worker = self.world.attention[view.worker_id]

        def serve(answer: Callable[[Described | None], None]) -> None:
            answer(None if worker.stands_still or worker.boot_id != view.boot_id else worker.describe())

        self.world.network.call(self, worker, serve, done, DESCRIBE_S)

    def _look(self) -> None:
        """Looks for silent workers, and for requests without progress."""
        if self.attempts or self.suspects:
            self._looks += 1
            self.loop.do(lambda: self._stalls.look(self._looks, self.views, self.attempts, self.open_on))

    def _meet(self, names: Sequence[str]) -> None:
        """Knows how soon these workers answer, as a router does that has probed them for a while."""
        for name in names:
            if name not in self._met:
                for _ in range(FEWEST):
                    self._stalls._times.add(name, USUAL_S)
        self._met = set(names)

    async def _answers(self, view: AttentionWorkerView) -> bool:
        answer: asyncio.Future[bool] = self.loop.create_future()

        def described(found: Described | None) -> None:
            if not answer.done():
                answer.set_result(found is not None)

        self.describe(view, described)
        return await answer

    def _noticed(self, what: str, **_: object) -> None:
        self.world.noticed[what] += 1

    def _received_at(self, view: AttentionWorkerView) -> float:
        stream = self._streams.get(view.address)
        return stream.received_at if stream else -math.inf

    def stream(self, view: AttentionWorkerView, then: Callable[[AttemptStream | None], None]) -> None:
        """Gives the stream to a worker; None when it cannot be reached."""
        found = self._streams.get(view.address)
        if found is not None and not found.ended:
            then(found)
            return
        if found is not None and found.damaged and self._damaged.note(view.worker_id, self.clock()):
            self._noticed(LINK_AVOIDED)
        worker = self.world.attention[view.worker_id]

        def serve(answer: Callable[[Stream | None], None]) -> None:
            stream = self.world.streams.begin(self, worker)
            worker.accept(stream, view.boot_id)
            answer(stream)

        def opened(stream: Stream | None) -> None:
            made = AttemptStream(self, stream) if stream is not None else None
            known = self._streams.get(view.address)
            if known is not None and not known.ended and made is not None:
                made.close()
                made = known
            elif made is not None:
                self._streams[view.address] = made
            then(made)

        self.world.network.call(self, worker, serve, opened, CONNECT_S)

    def drain(self) -> None:
        """Lets another router lead, takes nothing new, and ends when its streams have had time to."""
        self.draining = True
        self.leader.resign()
        self.after(DRAIN_S, lambda: self.world.kill(self))

    def kill(self) -> None:
        if self.alive:
            self.loop.close()
        super().kill()

    def accept(self, stream: Stream) -> None:
        """A client has connected."""

        def receive(asked: Any) -> None:
            ask: Ask = asked
            generation = Generation(self, ask, stream)
            self.generations[generation] = None
            stream.ended[1] = lambda why: generation.leave()
            generation.open()

        stream.receive[1] = receive
