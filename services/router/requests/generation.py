"""One generation at the attention workers: successive attempts that look like a single stream of tokens.

A failed worker costs the client a pause and nothing else: the next attempt carries prompt and emitted ids.
Text, HTTP and metrics of the outcome are handled elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import grpc
import structlog
from caracal_proto import attention_pb2

from services.process.loop_time import within
from services.router.requests.admission import Visit
from services.router.requests.attempt import Attempt, AttemptFailed
from services.router.requests.attempt_stream import AttemptStream
from services.router.requests.attention_workers import AttentionWorkerPool
from services.router.requests.errors import (
    NoProgress,
    NoWorker,
    Quarantined,
    RejectedByWorker,
    Replaced,
    RouterError,
    rejection_of,
)
from services.router.requests.failover import recover
from services.router.requests.generation_span import attempt_failed, start_attempt
from services.router.requests.metrics import RequestMetrics
from services.router.requests.progress import (
    RETRY_PAUSE_S,
    GenerationProgress,
    ending_of,
)
from services.router.requests.replay import Resumed, TokenBatch, tag_of
from services.router.requests.worker_choice import AttentionWorkerView

log = structlog.get_logger(__name__)

ASK_S = 0.25  # for a worker to answer that it still runs
FIRST_WORKER_S = 5.0  # how long the router tries to reach a first worker for a request
INTERNAL_FAULT = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}
CLIENT_FAULT = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What is to be generated. `eos_ids` end the sequence unless ignored.

    `visit`: what admission granted to the client's request. `grammar_field`: the field that its grammar comes from;
    `grammar_lines`: that has its lines.
    """

    request_id: str
    prompt_ids: Sequence[int]
    sampling: attention_pb2.Sampling
    visit: Visit
    eos_ids: frozenset[int] = frozenset()
    grammar_field: str = ""
    grammar_lines: bool = False
    priority: int = 0  # see GenerateRequest, as for the next
    cache_salt: bytes = b""
    resumed: Resumed | None = None  # of an answer that its client may go on with after its router's death


class Death(NamedTuple):
    """A worker has died under a generation. `by_link`: only its connection says so."""

    worker: AttentionWorkerView
    by_link: bool
    implicated: bool


class Generation:
    """Runs a GenerationRequest. Use it as a context manager: leaving it cancels the attempt in progress."""

    def __init__(
        self, attention_workers: AttentionWorkerPool, metrics: RequestMetrics, request: GenerationRequest
    ) -> None:
        self._workers = attention_workers
        self._metrics = metrics
        self._request = request
        self._attempt: Attempt | None = None
        self._failed: set[str] = set()  # workers that failed this generation
        self._died: list[Death] = []  # under it, as it seems
        self._pages_at: AttentionWorkerView | None = None  # the worker that may still have what was computed
        self._abort: RouterError | None = None
        self._progress_at = time.monotonic()
        self.progress = GenerationProgress()
        self.numerics_class = request.resumed.numerics_class if request.resumed else None
        self._keeps_class = self.numerics_class is not None
        self.boot_id = ""  # of the worker of the last attempt
        self.cached_tokens = 0  # of the prompt, as its first attempt found them
        self._take: Callable[[Sequence[attention_pb2.Token]], None] | None = None
        self._place = request.visit.place(request.priority)

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()
        self._place.leave()
        self._metrics.dropped_tokens.inc(self.progress.dropped)

    @property
    def attempts(self) -> int:
        """How many attempts were opened."""
        return self.progress.attempt

    def abort(self, error: RouterError) -> None:
        """Ends the generation from outside: the next call of `next_tokens` raises `error`."""
        self._abort = error
        self._place.abort(error)
        if self._attempt is not None:
            self._attempt.abandon()

    def divert(self, take: Callable[[Sequence[attention_pb2.Token]], None] | None) -> None:
        """Gives the next tokens to `take` as they arrive, until it is None, instead of to `next_tokens`.

        What is more than tokens, such as the end, still comes from there. Waking a reader costs more than a token.
        """
        self._take = take

    async def next_tokens(self) -> TokenBatch:
        """Returns the next tokens. Raises RouterError when the generation cannot go on."""
        await self._place.granted()
        self._progress_at = time.monotonic()  # how long the client took since the last tokens does not count
        while True:
            if self._attempt is None:
                ended = self._already_ended()
                if ended is not None:
                    return ended
                self._attempt = await self._open()
            attempt = self._attempt
            try:
                event = await attempt.read()
            except AttemptFailed as failed:
                await self._recover(attempt, failed)
                continue
            if event is None:
                await self._recover(attempt, None)
                continue
            self._progress_at = time.monotonic()
            self._note_cached(event)
            tokens = self.progress.accept(event.attempt, event.tokens)
            self._metrics.drafts.count(tokens)
            scores = self.progress.accept_scores(event.attempt, event.prompt) if event.prompt else []
            if tokens or scores or event.finish_reason:
                return TokenBatch(tokens, event.finish_reason, self._stop_id(event), scores)

    def _direct(self, event: attention_pb2.GenerateEvent) -> bool:
        if self._take is None or self._abort is not None or event.prompt or not event.tokens:
            return False
        self._progress_at = time.monotonic()
        self._note_cached(event)
        if tokens := self.progress.accept(event.attempt, event.tokens):
            self._metrics.drafts.count(tokens)
            self._take(tokens)
        return True

    def _note_cached(self, event: attention_pb2.GenerateEvent) -> None:
        if event.tokens and not self.progress.emitted_ids:
            self.cached_tokens = event.cached_tokens
            self._metrics.prefix_queries.inc(len(self._request.prompt_ids))
            self._metrics.prefix_hits.inc(event.cached_tokens)

    def _stop_id(self, event: attention_pb2.GenerateEvent) -> int | None:
        """Returns the stop id when the worker sent it as the last token."""
        emitted = self.progress.emitted_ids
        stopped = event.finish_reason == "stop" and emitted and emitted[-1] == event.stop_id
        return event.stop_id if stopped else None

    def _already_ended(self) -> TokenBatch | None:
        """Returns the end of a sequence whose last token arrived, but whose worker failed before its finish reason."""
        ended = ending_of(self.progress.emitted_ids, self._request.sampling, self._request.eos_ids)
        return TokenBatch((), *ended) if ended is not None else None

    async def _open(self) -> Attempt:
        """Opens an attempt at the best worker.

        The first attempt waits while a worker is expected to come back, or to start; later ones as long as a request
        may go without progress.
        """
        began = time.monotonic()
        give_up_at = began + FIRST_WORKER_S
        emitted = self.progress.emitted_ids
        ids = [*self._request.prompt_ids, *emitted] if emitted else self._request.prompt_ids
        pages = self._workers.look_up(ids, self._request.cache_salt)
        while True:
            self._check_time()
            if emitted and self._workers.has_ended(self.numerics_class):
                raise Replaced(
                    "The answer cannot go on: an upgrade has replaced the workers it began on. Send it again."
                )
            cached = await pages.cached_tokens(self._workers.workers)
            if (resumed := self._request.resumed) is not None and resumed.worker and not self.progress.attempt:
                at = (one.worker_id for one in self._workers.workers if tag_of(one.boot_id) == resumed.worker)
                cached |= dict.fromkeys(at, len(ids))  # it has the tokens, too
            in_class = self.numerics_class if emitted or self._keeps_class else None
            worker = self._workers.choose(in_class, self._failed, cached)
            stream = await self._workers.stream(worker) if worker and await self._may_ask(worker) else None
            if worker and stream:
                pages.sent_to(worker)
                return self._start(worker, stream)
            hopeless = worker is None and self._workers.not_ready() is not None
            hopeless |= self._workers.cold and time.monotonic() > began + self._workers.cold_start_s
            if self.progress.attempt == 0 and (hopeless or (worker and time.monotonic() > give_up_at)):
                reason = self._workers.missing() or "no attention worker can be reached"
                raise NoWorker(f"The cluster cannot serve this now: {reason}.")
            if worker:
                self._failed.add(worker.worker_id)
            await self._workers.wait_for_change(RETRY_PAUSE_S if worker else self._seconds_left())
            give_up_at = give_up_at if worker else time.monotonic() + FIRST_WORKER_S

    async def _may_ask(self, worker: AttentionWorkerView) -> bool:
        """Whether a worker may get the request. One that has died already must not count as one that it has killed."""
        if not self.progress.implicated_in_a_row:
            return True
        try:
            return await within(ASK_S, self._workers.answers(worker))
        except TimeoutError:
            return False

    def _start(self, worker: AttentionWorkerView, stream: AttemptStream) -> Attempt:
        message = attention_pb2.GenerateRequest(
            request_id=self._request.request_id,
            attempt=self.progress.open_attempt(),
            prompt_ids=self._request.prompt_ids,
            emitted_ids=self.progress.emitted_ids,
            scored=self.progress.scored,
            sampling=self._request.sampling,
            caller=self._request.visit.caller.number,
            weight=self._request.visit.caller.weight,
            priority=self._request.priority,
            cache_salt=self._request.cache_salt,
        )
        if (resumed := self._request.resumed) is not None:
            message.resume_key, message.resume_known = resumed.key, resumed.position.tokens
        if (pages_at := self._pages_at) is not None and pages_at.boot_id != worker.boot_id:
            message.pages_at.address, message.pages_at.boot_id = pages_at.address, pages_at.boot_id
        self._metrics.attempts.inc()
        if message.attempt > 1:
            self._metrics.failovers.inc()
        self.numerics_class, self.boot_id = worker.numerics_class, worker.boot_id
        span = start_attempt(worker, message)
        attempt = stream.begin(worker, message)
        attempt.span, attempt.direct, attempt.finished = span, self._direct, partial(self._finished, attempt)
        self._workers.attempts.add(attempt)
        self._workers.open_on[worker.worker_id] += 1
        return attempt

    def _leave(self) -> None:
        if self._attempt is None:
            return
        attempt, self._attempt = self._attempt, None
        attempt.cancel()
        if attempt.span is not None:
            attempt.span.end()
        self._let_go(attempt)

    def _finished(self, attempt: Attempt) -> None:
        """Lets others have the place at the worker, which has come to its end: the client may read for long."""
        self._let_go(attempt)
        self._place.leave()

    def _let_go(self, attempt: Attempt) -> None:
        """Counts the attempt no more at its worker."""
        if attempt in self._workers.attempts:
            self._workers.attempts.discard(attempt)
            self._workers.open_on[attempt.worker.worker_id] -= 1

    async def _recover(self, attempt: Attempt, failed: AttemptFailed | None) -> None:
        """Ends a failed attempt. Raises RouterError when another one would not help."""
        attempt_failed(attempt.span, failed)
        self._leave()
        self._check_time(attempt.expired)
        code = failed.code if failed else None
        detail = failed.details[:200] if failed else ""
        log.warning(
            "attempt failed",
            worker=attempt.worker.worker_id,
            request_id=self._request.request_id,
            attempt=attempt.number,
            emitted=self.progress.next_index,
            status=code.name if code else "ended early",
            detail=detail,
        )
        if code in CLIENT_FAULT:
            raise rejection_of(detail, self._request.grammar_field, lines=self._request.grammar_lines)
        if code in INTERNAL_FAULT:
            raise RejectedByWorker("An attention worker rejected the request.")
        how = recover(self.progress, failed, attempt.implicated)
        if how.avoid:
            self._failed.add(attempt.worker.worker_id)
        if how.first:  # else it may be that the pages have not reached this worker
            self._pages_at = attempt.worker if how.keeps_pages else None
        if how.full:
            another = self._workers.choose(self.numerics_class, self._failed)
            if self.progress.next_index == 0 and (another is None or another.worker_id in self._failed):
                raise NoWorker("The cluster has no capacity for this request now.", code="overloaded")
        if how.death:
            self._died.append(Death(attempt.worker, how.by_link, attempt.implicated))
        if how.quarantined and await self._have_died():
            raise Quarantined("Several workers in a row failed on this request; it is not tried again.")
        if how.pause_s:
            await asyncio.sleep(how.pause_s)

    async def _have_died(self) -> bool:
        """Whether as many runs of workers as it takes are gone, or said that they failed: a reset link looks like a
        death, and a run dies once.
        """
        last = self._died[-self.progress.deaths_in_a_row :]
        lost = {death.worker.boot_id: death for death in last if death.by_link}
        there = await asyncio.gather(*(self._workers.still_runs(death.worker) for death in lost.values()))
        gone = [death for death, runs in zip(lost.values(), there, strict=True) if not runs]
        self._died = [death for death in last if not death.by_link] + gone
        self.progress.deaths_in_a_row = len(self._died)
        self.progress.implicated_in_a_row = sum(death.implicated for death in self._died)
        return self.progress.is_poison

    def _check_time(self, expired: bool = False) -> None:
        if self._abort is not None:
            raise self._abort
        if expired or self._seconds_left() <= 0:
            raise NoProgress(f"The request made no progress for {self._workers.progress_timeout_s:g} s.")

    def _seconds_left(self) -> float:
        return self._progress_at + self._workers.progress_timeout_s - time.monotonic()
