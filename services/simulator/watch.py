"""How one router notices that an attention worker is dead, stopped or slow: its own detector, in virtual time.

Nothing comes of watching workers that are all well. So it runs while one is not, and until it knows how soon each
worker answers; in between the answers to its probes would be those that it knows.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Mapping, Sequence

from services.router.requests.attention_workers import DESCRIBE_S
from services.router.requests.silent_workers import StallTimeouts
from services.router.requests.stall_detector import StallDetector
from services.router.requests.worker_choice import AttentionWorkerView
from services.simulator.attempt import SimulatedAttempt
from services.simulator.attention import SimulatedAttention

TIMEOUTS = StallTimeouts()


class Watch:
    """`workers` by id, whoever is there now; `attempts` and `open_on` are the router's."""

    def __init__(
        self,
        workers: Mapping[str, SimulatedAttention],
        attempts: Collection[SimulatedAttempt],
        open_on: Mapping[str, int],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._workers, self._attempts, self._open_on, self._loop = workers, attempts, open_on, loop
        self._stalls = StallDetector(self._answers, self._received_at, TIMEOUTS, loop.time, lambda *_, **__: None)
        self._received: dict[str, float] = {}
        self._looked_at = -math.inf

    @property
    def suspects(self) -> set[str]:
        """Workers that get no new sequences."""
        return self._stalls.suspects

    @property
    def busy(self) -> bool:
        """Whether it has something to find out: of a suspect, a late probe, or attempts at a worker that is gone."""
        gone = any(attempt.worker.worker_id not in self._workers for attempt in self._attempts)
        return gone or bool(self.suspects) or self._stalls.probing

    def read(self, views: Sequence[AttentionWorkerView]) -> None:
        """The list of workers has been read: all are probed."""
        self._stalls.check(views, self._attempts, everybody=True)

    def look(self, number: int, views: Sequence[AttentionWorkerView]) -> None:
        """A look between two readings."""
        self._stalls.look(number, views, self._attempts, self._open_on)

    async def _answers(self, view: AttentionWorkerView) -> bool:
        worker = self._workers.get(view.worker_id)
        if worker is None or worker.boot_id != view.boot_id:
            return False
        try:
            async with asyncio.timeout(DESCRIBE_S):
                await worker.life.answer()
        except TimeoutError:
            return False
        return True

    def _received_at(self, view: AttentionWorkerView) -> float:
        """When something came last from a worker, for any of this router's attempts."""
        if self._looked_at != self._loop.time():
            self._looked_at = self._loop.time()
            received: dict[str, float] = {}
            for attempt in self._attempts:
                name, at = attempt.worker.worker_id, attempt.last_event_at
                if at > received.get(name, -math.inf):
                    received[name] = at
            self._received = received
        return self._received.get(view.worker_id, -math.inf)
