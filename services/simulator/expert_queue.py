"""The metric by which expert pods are scaled: the workers' own count of how long calls waited, of waits by a formula.

There are no single calls here. Between two looks each call has waited as long as at one server that is so busy with
launches of so many rows, and one call is counted for each step.
"""

from __future__ import annotations

from collections.abc import Callable

from services.expert_worker.queue_time import QueueTimes
from services.simulator.attention_side import Done

BUSY_MOST = 0.98


class ExpertQueue:
    """All expert workers, which are taken for alike. `layer_s`: seconds of a launch of so many rows; `done`: what
    attention workers have done."""

    def __init__(self, layer_s: Callable[[float], float], done: Callable[[], Done], now: float) -> None:
        self._layer_s, self._done = layer_s, done
        self._times = QueueTimes()
        self._seen, self._seen_at = done(), now

    def look(self, now: float) -> None:
        """Counts the calls since the last look."""
        done, seconds = self._done(), now - self._seen_at
        steps, rows = done.steps - self._seen.steps, done.rows - self._seen.rows
        busy = min(BUSY_MOST, (done.served_s - self._seen.served_s) / seconds) if seconds > 0 else 0.0
        self._seen, self._seen_at = done, now
        if steps > 0:
            waited_s = busy / (2 * (1 - busy)) * self._layer_s(rows / steps)
            for _ in range(steps):
                self._times.count(waited_s, now)

    def recent_ms(self, now: float) -> float:
        """What each pod says at /metrics."""
        return 1e3 * self._times.recent_s(now)
