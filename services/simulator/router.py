"""One router: real admission and fair queue, choice of a worker, and failover, for simulated requests.

A generation's progress, pauses and strikes are the router's own rules (`services/router/requests/progress.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from services.attention_worker.engine.scheduler import CannotFit
from services.attention_worker.engine.sequence import Request
from services.prefixes.page_hint import PageHint
from services.router.requests.admission import Admission, AdmissionLimits, Visit
from services.router.requests.admission_metrics import AdmissionMetrics
from services.router.requests.attention_workers import HOLD_S
from services.router.requests.callers import Caller
from services.router.requests.errors import RouterError
from services.router.requests.failover import recover
from services.router.requests.generation import FIRST_WORKER_S
from services.router.requests.prefix_hints import PrefixHints
from services.router.requests.prefix_lookup import PrefixLookup
from services.router.requests.progress import RETRY_PAUSE_S, GenerationProgress
from services.router.requests.worker_capacity import Capacity, capacity_of
from services.router.requests.worker_choice import AttentionWorkerView, choose_worker
from services.simulator.attempt import FAILURES, SimulatedAttempt
from services.simulator.attention import Handed, SimulatedAttention
from services.simulator.deployment import Deployment
from services.simulator.generation import Generation
from services.simulator.watch import TIMEOUTS, Watch

BYTES_PER_TOKEN = 4  # of a body
DIED = "the router has died"  # why its requests are cancelled


@dataclass(frozen=True, slots=True)
class SentToken:
    """A token as GenerationProgress takes it; what it is does not matter."""

    index: int
    id: int = 0


class SimulatedRouter:
    """`workers` by id, whoever is there now."""

    def __init__(
        self, deployment: Deployment, workers: Mapping[str, SimulatedAttention], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._d, self._workers, self._loop = deployment, workers, loop
        self._capacity = Capacity(1, 0)
        self._views: Sequence[AttentionWorkerView] = ()
        self._places: dict[str, int] = {}
        self._served_at = -HOLD_S  # when a worker served last
        self._changed = loop.create_future()
        self._prefixes = PrefixHints()
        self.open_on: Counter[str] = Counter()
        self.attempts: dict[SimulatedAttempt, None] = {}  # in their order
        self.watch = Watch(workers, self.attempts, self.open_on, loop)
        self.admission = Admission(
            lambda: self._capacity,
            AdmissionMetrics(CollectorRegistry()),
            AdmissionLimits(queue_timeout_s=deployment.queue_timeout_s),
            loop.time,
        )

    def look(self, number: int) -> None:
        """Looks for workers that send nothing."""
        self.watch.look(number, self._views)

    def refresh(self, views: Sequence[AttentionWorkerView], *, probe: bool) -> None:
        """Takes the workers as their leases describe them; with `probe` all are probed."""
        self._views = views
        serving = [view for view in views if view.serving]
        usable = [view for view in serving if view.worker_id not in self.watch.suspects] or serving
        self._places = dict.fromkeys((view.worker_id for view in views), self._d.max_running)
        if serving:
            self._served_at = self._loop.time()
            found = capacity_of(usable, self._places, self.open_on, self._d.routers)
            tokens = len(usable) * self._d.pages * self._d.page_size
            if (found, tokens) != (self._capacity.places, self._capacity.cached_tokens):
                self._capacity = Capacity(found, tokens)
        if probe:
            self.watch.read(views)
        self._changed.set_result(None)
        self._changed = self._loop.create_future()
        self.admission.give()

    @property
    def ready(self) -> bool:
        """Whether new requests are taken on: a worker serves, or one has lately."""
        return self._loop.time() < self._served_at + HOLD_S

    def read_hints(self, hints: Mapping[str, PageHint]) -> None:
        """Takes what workers say of the pages that they have cached."""
        self._prefixes.update(hints)

    async def serve(self, generation: Generation) -> None:
        """Serves a request to its end, which it has exactly once."""
        if not self.ready:
            generation.finish("rejected", self._loop.time())
            return
        caller, queued = Caller(generation.caller), False
        try:
            with self.admission.visit(caller, BYTES_PER_TOKEN * generation.prompt) as visit:
                visit.reserve(1, generation.prompt, generation.prompt + generation.answer)
                queued = True
                await self._serve(generation, visit)
        except RouterError:
            generation.finish("timeout" if queued else "rejected", self._loop.time())
        except asyncio.CancelledError as cancelled:
            generation.finish("lost" if DIED in cancelled.args else "open", self._loop.time())
            raise

    async def _serve(self, generation: Generation, visit: Visit) -> None:
        place = visit.place()
        try:
            await place.granted()
            end = await self._attempts(generation, visit)
            generation.finish("finished" if end else "failed", self._loop.time())
        finally:
            place.leave()

    async def _attempts(self, generation: Generation, visit: Visit) -> bool:
        """Attempts until the answer is whole; false when it is given up."""
        progress, failed, progress_at = GenerationProgress(), set[str](), self._loop.time()
        prompt, source = generation.prompt_ids(), None
        while True:
            ids = (*prompt, *progress.emitted_ids)
            first = progress.attempt == 0
            chosen = await self._worker(generation, ids, failed, progress_at + TIMEOUTS.progress_s, first=first)
            if chosen is None:
                return False
            view, worker = chosen
            request = Request(
                request_id=str(generation.number),
                prompt_ids=prompt,
                emitted_ids=tuple(progress.emitted_ids),
                caller=visit.caller.number,
            )
            number = generation.attempts = progress.open_attempt()
            try:
                handed = await self._attempt(SimulatedAttempt(view, number, worker, generation, request, source))
            except CannotFit:
                return False
            if handed is None or handed.why == "expired":
                return handed is None
            new = [SentToken(index) for index in range(progress.next_index, generation.tokens)]
            if progress.accept(number, new):
                progress_at = self._loop.time()
            how = recover(progress, FAILURES[handed.why])
            if how.avoid:
                failed.add(worker.worker_id)
            if how.first:
                source = handed.source if how.keeps_pages else None
            if how.quarantined:
                return False
            if progress.next_index >= generation.answer:
                return True
            await asyncio.sleep(how.pause_s)

    async def _worker(
        self, generation: Generation, ids: Sequence[int], failed: set[str], until: float, *, first: bool
    ) -> tuple[AttentionWorkerView, SimulatedAttention] | None:
        """The worker for these ids, once there is one that can be reached; None when there was none until then.

        The `first` attempt waits for as long as a worker is expected to come back, or cannot be reached.
        """
        pages, unreached_at = self._look_up(generation, ids), self._loop.time() + FIRST_WORKER_S
        while True:
            cached = await pages.cached_tokens(self._views) if pages else {}
            avoid = {*failed, *self.watch.suspects}
            view = choose_worker(self._views, self.open_on, avoid=avoid, cached=cached, places=self._places)
            worker = self._workers.get(view.worker_id) if view else None
            if view is not None and worker is not None and worker.life.reachable:
                if pages is not None:
                    pages.sent_to(view)
                return view, worker
            if view is not None:
                failed.add(view.worker_id)
            hopeless = self._loop.time() > unreached_at if view is not None else not self.ready
            if self._loop.time() > until or (first and hopeless):
                return None
            await asyncio.wait([self._changed], timeout=RETRY_PAUSE_S if view else TIMEOUTS.progress_s)
            unreached_at = unreached_at if view is not None else self._loop.time() + FIRST_WORKER_S

    async def _attempt(self, attempt: SimulatedAttempt) -> Handed | None:
        """Follows an attempt to its end; returns why it is to go on elsewhere, or None when the answer is whole."""
        self.attempts[attempt] = None
        self.open_on[attempt.worker.worker_id] += 1
        try:
            await attempt.ended
        except Handed as handed:
            return handed
        except asyncio.CancelledError:
            attempt.leave()
            raise
        finally:
            del self.attempts[attempt]
            self.open_on[attempt.worker.worker_id] -= 1
        return None

    def _look_up(self, generation: Generation, ids: Sequence[int]) -> PrefixLookup | None:
        """What tells who has these ids cached; None where nobody can."""
        shares = self._d.prefix_cache and generation.conversation is not None
        return PrefixLookup(self._prefixes, ids, b"", self._loop.time) if shares else None
