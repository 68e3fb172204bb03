"""How long the parts of a process's start took, for its log: from its creation on, which is before Python runs.

A spare counts from the moment at which it took over: before that it had imported its modules, and waited.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_IMPORTED = time.monotonic()
_taken_over: float | None = None


class StartTimes:
    """Call `reached` at the end of each part."""

    def __init__(self) -> None:
        self._last = _age_s()
        self._parts = {"imports_s": round(self._last, 3)}

    def reached(self, part: str) -> None:
        now = _age_s()
        self._parts[f"{part}_s"], self._last = round(now - self._last, 3), now

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by part, `imports_s` first: until this was made."""
        return dict(self._parts)


def count_from_now() -> None:
    """What this process has done until now is no part of its start."""
    global _taken_over
    _taken_over = time.monotonic()


def _age_s() -> float:
    """Seconds since the process was created or took over; elsewhere than on Linux since this module was imported."""
    if _taken_over is not None:
        return time.monotonic() - _taken_over
    if sys.platform != "linux":
        return time.monotonic() - _IMPORTED
    created = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - created / os.sysconf("SC_CLK_TCK")
