"""One attempt of a simulated router at a simulated attention worker, as the router's detector watches it."""

from __future__ import annotations

import grpc

from services.attention_worker.engine.sequence import Request
from services.router.requests.attempt import AttemptFailed
from services.router.requests.failover import DRAINING
from services.router.requests.worker_choice import AttentionWorkerView
from services.simulator.attention import Handed, SimulatedAttention
from services.simulator.generation import Generation
from services.simulator.page_fetches import Source

# What the real router gets when an attempt ends; None: nothing, since it has decided so itself.
FAILURES: dict[str, AttemptFailed | None] = {
    "lost": AttemptFailed(grpc.StatusCode.UNAVAILABLE, "the connection has ended", lost=True),
    "draining": AttemptFailed(grpc.StatusCode.UNAVAILABLE, DRAINING),
    "unavailable": AttemptFailed(grpc.StatusCode.UNAVAILABLE, "experts are missing"),
    "silent": None,
}


class SimulatedAttempt:
    """`ended` raises Handed when it is not to be; `source`: of pages that are there already. Raises CannotFit."""

    def __init__(
        self,
        view: AttentionWorkerView,
        number: int,
        at: SimulatedAttention,
        generation: Generation,
        request: Request,
        source: Source | None,
    ) -> None:
        self.worker, self.number, self._at, self._generation = view, number, at, generation
        self.ended = at.submit(generation, request, source)
        self._began = self.ended.get_loop().time()

    @property
    def last_event_at(self) -> float:
        """When something came last: a token, unless the worker waits or is silent."""
        return max(self._began, self._generation.last, self._at.received_at(self._began))

    @property
    def complete(self) -> bool:
        return self.ended.done()

    def abandon(self) -> None:
        """Gives the worker up: the answer goes on elsewhere."""
        self._end("silent")

    def expire(self) -> None:
        """Gives the request up."""
        self._end("expired")

    def leave(self) -> None:
        """Nobody waits for the answer any more."""
        self._at.leave(self._generation)

    def _end(self, why: str) -> None:
        if not self.ended.done():
            self._at.give_up(self._generation)
            self.ended.set_exception(Handed(why))
