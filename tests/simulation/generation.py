"""One request at a router: successive attempts that look like a single stream of tokens.

Progress, pauses, what a failure says, and whether the tokens say that the answer is whole are the real code's.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import grpc
from simulation.attention_worker import Begin
from simulation.client import Ask, Delivered, Ended
from simulation.oracle import EOS
from simulation.router_attempt import RouterAttempt
from simulation.streams import Stream
from simulation.worker import Described

from services.attention_worker.engine.sequence import Ending, Sampling, TokenOut
from services.router.requests.attempt import AttemptFailed
from services.router.requests.errors import NoProgress, NoWorker, Quarantined, RouterError
from services.router.requests.failover import STANDS_STILL, recover
from services.router.requests.generation import FIRST_WORKER_S
from services.router.requests.progress import (
    MAX_FAILURES_IN_A_ROW,
    RETRY_PAUSE_S,
    GenerationProgress,
    ending_of,
)
from services.router.requests.replay import tag_of
from services.router.requests.worker_choice import AttentionWorkerView, choose_worker

if TYPE_CHECKING:
    from simulation.router import AttemptStream, Router

EOS_IDS = frozenset({EOS})


class Generation:
    """`stream`: to its client."""

    def __init__(self, router: Router, ask: Ask, stream: Stream) -> None:
        self._router, self._ask, self._stream = router, ask, stream
        self.progress = (router.world.mutation.progress or GenerationProgress)()
        self._sampling = Sampling(seed=ask.seed, max_tokens=ask.max_tokens)
        self._failed: set[str] = set()
        self._died: list[tuple[AttentionWorkerView, bool]] = []
        self._attempt: RouterAttempt | None = None
        self._class: str | None = None
        self._progress_at = router.clock()
        self._give_up_at = router.clock() + FIRST_WORKER_S
        self._delivered = ask.known  # tokens that the client has
        self.over = False

    def open(self) -> None:
        """Opens an attempt at the best worker: as the real `_open`, with an end instead of an error raised."""
        if self.over:
            return
        router, emitted = self._router, self.progress.emitted_ids
        if (whole := ending_of(emitted, self._sampling, EOS_IDS)) is not None:
            self._finish(whole[0])
            return
        if self._seconds_left() <= 0:
            self._fail(NoProgress("no progress"))
            return
        worker = self._choose()
        if worker is None:
            if self.progress.attempt == 0 and not router.waits:
                self._fail(NoWorker("no attention worker"))
                return
            self._give_up_at = router.clock() + FIRST_WORKER_S
            router.wait_for_change(self._seconds_left(), self.open)
            return
        router.stream(worker, lambda stream: self._opened(worker, stream))

    def _choose(self) -> AttentionWorkerView | None:
        router, ask = self._router, self._ask
        cached = {}
        if ask.worker_tag and not self.progress.attempt:
            length = len(ask.prompt_ids) + ask.known
            cached = {v.worker_id: length for v in router.views if tag_of(v.boot_id) == ask.worker_tag}
        return choose_worker(
            router.views,
            router.open_on,
            numerics_class=self._class if self.progress.emitted_ids else None,
            avoid={*self._failed, *router.avoided},
            cached=cached,
        )

    def _opened(self, worker: AttentionWorkerView, stream: AttemptStream | None) -> None:
        router = self._router
        if self.over:
            return
        if stream is not None:
            self._start(worker, stream)
        elif self.progress.attempt == 0 and router.clock() > self._give_up_at:
            self._fail(NoWorker("no attention worker can be reached"))
        else:
            self._failed.add(worker.worker_id)
            router.wait_for_change(RETRY_PAUSE_S, self.open)

    def _start(self, worker: AttentionWorkerView, stream: AttemptStream) -> None:
        ask, number = self._ask, self.progress.open_attempt()
        self._class = worker.numerics_class
        emitted = () if self._router.world.mutation.forgets_offset else tuple(self.progress.emitted_ids)
        attempt = stream.begin(
            worker,
            self,
            lambda attempt_id: Begin(
                attempt_id=attempt_id,
                number=number,
                request_id=ask.request_id,
                prompt_ids=ask.prompt_ids,
                emitted_ids=emitted,
                seed=ask.seed,
                max_tokens=ask.max_tokens,
                resume_key=ask.request_id.encode(),
                resume_known=ask.known,
            ),
        )
        self._attempt = attempt
        self._router.attempts[attempt] = None
        self._router.open_on[worker.worker_id] += 1

    def take(self, attempt: RouterAttempt, number: int, tokens: tuple[TokenOut, ...], ending: Ending | None) -> None:
        """Takes what comes of an attempt."""
        if self.over:
            return
        self._progress_at = self._router.clock()
        accepted = self.progress.accept(number, tokens)
        first = self.progress.next_index - len(accepted)
        for index, one in enumerate(accepted, first):
            if index >= self._delivered:
                self._delivered = index + 1
                self._stream.send(1, Delivered(index, one.id, tag_of(attempt.worker.boot_id)))
        if ending is not None:
            self._finish(ending.reason)

    def recover(self, attempt: RouterAttempt, failed: AttemptFailed | None) -> None:
        """As the real `_recover`."""
        if self.over:
            return
        self._let_go()
        if attempt.expired or self._seconds_left() <= 0:
            self._fail(NoProgress("no progress"))
            return
        if failed is None and self._router.world.mutation.alarms_are_deaths:
            failed = AttemptFailed(grpc.StatusCode.UNAVAILABLE, STANDS_STILL)
        how = recover(self.progress, failed)
        if how.avoid:
            self._failed.add(attempt.worker.worker_id)
        if how.death:
            self._died.append((attempt.worker, how.by_link))
        if how.quarantined:
            self._ask_the_dead(how.pause_s)
        else:
            self._router.after(how.pause_s, self.open)

    def _ask_the_dead(self, pause_s: float) -> None:
        """Gives the request up if as many runs as it takes are gone: as the real `_have_died`."""
        last = self._died[-self.progress.deaths_in_a_row :]
        lost = {worker.boot_id: worker for worker, by_link in last if by_link}
        self._died = [one for one in last if not one[1]]
        left = len(lost)
        if self._router.world.mutation.believes_links:
            self._died, lost, left = last, {}, 0

        def answered(worker: AttentionWorkerView, found: Described | None) -> None:
            nonlocal left
            left -= 1
            if found is None:
                often = self._router.world.mutation.counts_a_death_often
                self._died += [one for one in last if one[1] and one[0].boot_id == worker.boot_id][
                    : None if often else 1
                ]
            if not left:
                decide()

        def decide() -> None:
            self.progress.deaths_in_a_row = len(self._died)
            if self.over:
                return
            if len(self._died) < MAX_FAILURES_IN_A_ROW:
                self._router.after(pause_s, self.open)
                return
            self._router.world.checks.quarantined(self._ask.request_id, [worker.boot_id for worker, _ in self._died])
            self._fail(Quarantined("several workers in a row failed on this request"))

        if not left:
            decide()
        for worker in lost.values():
            self._router.describe(worker, partial(answered, worker))

    def leave(self) -> None:
        """The client has left."""
        if not self.over:
            self._close()

    def _finish(self, reason: str) -> None:
        self._stream.send(1, Ended(reason))
        self._close()

    def _fail(self, error: RouterError) -> None:
        self._stream.send(1, Ended("error", error.code))
        self._close()

    def _close(self) -> None:
        self.over = True
        if self._attempt is not None:
            self._attempt.cancel()
        self._let_go()
        self._router.generations.pop(self, None)

    def _let_go(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None and attempt in self._router.attempts:
            del self._router.attempts[attempt]
            self._router.open_on[attempt.worker.worker_id] -= 1

    def _seconds_left(self) -> float:
        return self._progress_at + self._router.timeouts.progress_s - self._router.clock()
