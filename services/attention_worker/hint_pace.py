"""When a worker tells routers of the pages that it has cached: pure, no clock, no I/O."""

from __future__ import annotations

REPORT_S = 1.0  # between two looks, for each EACH_BYTES of the hint that was written last
EACH_BYTES = 16 << 10


class HintPace:
    """One worker's. An unchanged hint is written again after `repeat_s`, so that it does not expire."""

    def __init__(self, repeat_s: float) -> None:
        self._repeat_s = repeat_s
        self._version, self._written_at = -1, 0.0
        self.pause_s = REPORT_S  # until the next look

    def due(self, version: int, now: float) -> bool:
        """Whether a hint of this version is to be written. `now`: of any clock that advances."""
        return version != self._version or now >= self._written_at + self._repeat_s

    def wrote(self, version: int, size: int, now: float) -> None:
        """A hint with a filter of so many bytes was written: large ones are written less often."""
        self._version, self._written_at = version, now
        self.pause_s = REPORT_S * max(1.0, size / EACH_BYTES)
