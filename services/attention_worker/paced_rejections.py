"""When a rejected call is answered: at once while there are few, later while a crowd is rejected. No I/O, no clock.

Each rejection takes the interpreter from the engine. A caller has as many calls open as a connection may have, so one
that waits for its rejection asks less often.
"""

from __future__ import annotations

RATE_PER_S = 64.0
AT_ONCE = 64  # rejections
MOST_S = 2.0


class PacedRejections:
    """A bucket of rejections."""

    def __init__(self) -> None:
        self._full_at = 0.0  # when none of the last ones counts any more

    def delay_s(self, now_s: float) -> float:
        """Counts a rejection; returns the seconds after which it is to be sent."""
        self._full_at = max(self._full_at, now_s) + 1 / RATE_PER_S
        late_s = self._full_at - now_s - AT_ONCE / RATE_PER_S
        if late_s <= MOST_S:
            return max(0.0, late_s)
        self._full_at = now_s + MOST_S + AT_ONCE / RATE_PER_S
        return MOST_S
