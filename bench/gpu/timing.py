"""Device time of calls: CUDA events around many of them, medians.

A pass begins with a sleep on the device, long enough for the host to queue all launches behind it: so gaps between
launches are the device's own, as in a recorded graph. Calls rotate through their own inputs, or L2 would hold them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

Call = Callable[[], object]
TARGET_S, QUICK_S = 0.25, 0.1  # of measured passes for one figure; where many are compared
FEWEST, MOST = 5, 60  # passes
SLEEP_HZ = 2.0e9  # no card's clock is faster, so a sleep is never too short
LONGEST_SLEEP_S = 0.3


class Clock(Protocol):
    """Seconds that one call takes on the device."""

    def seconds(self, calls: Sequence[Call], target_s: float = TARGET_S) -> float: ...


class DeviceClock:
    """Of the current CUDA device."""

    def seconds(self, calls: Sequence[Call], target_s: float = TARGET_S) -> float:
        """The median over passes through all `calls`, divided by their number."""
        self._pass(calls)  # compiles
        began_s = time.perf_counter()
        self._pass(calls)
        whole_s = time.perf_counter() - began_s
        repeats = max(FEWEST, min(MOST, round(target_s / whole_s)))
        for _ in range(FEWEST):  # the clocks rise
            host_s = self._pass(calls)
        cycles = int(min(LONGEST_SLEEP_S, 1.5 * host_s + 50e-6) * SLEEP_HZ)
        return statistics.median(self._timed(calls, cycles) for _ in range(repeats)) / len(calls)

    @staticmethod
    def _pass(calls: Sequence[Call]) -> float:
        """Seconds that the host took to launch."""
        began_s = time.perf_counter()
        for call in calls:
            call()
        host_s = time.perf_counter() - began_s
        torch.cuda.synchronize()
        return host_s

    @staticmethod
    def _timed(calls: Sequence[Call], cycles: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch leaves it bare
        torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]  # torch leaves it bare
        begin.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        milliseconds: float = begin.elapsed_time(end)
        return milliseconds / 1e3


class NoClock:
    """Runs one of the calls and has no figure: for dry runs."""

    def seconds(self, calls: Sequence[Call], target_s: float = TARGET_S) -> float:
        calls[-1]()
        return math.nan
