"""An attempt as its router sees it: the real Attempt without a queue, since its reader is called at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from services.attention_worker.engine.sequence import Ending, TokenOut
from services.router.requests.attempt import AttemptFailed
from services.router.requests.worker_choice import AttentionWorkerView

if TYPE_CHECKING:
    from simulation.generation import Generation


class RouterAttempt:
    def __init__(
        self,
        generation: Generation,
        worker: AttentionWorkerView,
        number: int,
        clock: Callable[[], float],
        cancel: Callable[[], None],
    ) -> None:
        self.worker, self.number = worker, number
        self.complete = self.abandoned = self.expired = False
        self._generation, self._clock, self._cancel = generation, clock, cancel
        self.last_event_at = clock()

    def arrive(self, number: int, tokens: tuple[TokenOut, ...], ending: Ending | None) -> None:
        """Takes tokens, and the answer's end. `number`: of the attempt, as the worker says it."""
        self.last_event_at = self._clock()
        if self.complete:
            return
        self.complete = ending is not None
        self._generation.take(self, number, tokens, ending)

    def fail(self, failed: AttemptFailed) -> None:
        if not self.complete:
            self.complete = True
            self._generation.recover(self, failed)

    def abandon(self) -> None:
        """Gives the worker up."""
        if not self.complete:
            self.abandoned = True
            self.cancel()
            self._generation.recover(self, None)

    def expire(self) -> None:
        """Gives the request up, for want of progress."""
        self.expired = True
        self.abandon()

    def cancel(self) -> None:
        if not self.complete:
            self.complete = True
            self._cancel()
