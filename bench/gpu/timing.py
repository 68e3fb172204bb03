"""Device time of calls: medians over passes, measured with CUDA events.

A pass begins with a sleep on the device, long enough for the host to queue all launches behind it: gaps between
launches are then as short as in a CUDA graph. Calls rotate through several inputs, so that none stay in L2.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

Call = Callable[[], object]
TARGET_S, QUICK_S = 0.25, 0.1  # measured time of one result; of each of many that are compared
MIN_PASSES, MAX_PASSES = 5, 60
SLEEP_HZ = 2.0e9  # above every GPU's clock, so that no sleep is too short
MAX_SLEEP_S = 0.3


class Clock(Protocol):
    """Seconds that one call takes on the device."""

    def seconds(self, calls: Sequence[Call], target_s: float = TARGET_S) -> float: ...


class DeviceClock:
    """Measures on the current CUDA device."""

    def seconds(self, calls: Sequence[Call], target_s: float = TARGET_S) -> float:
        """Returns the median of passes through all `calls`, divided by their number."""
        self._pass(calls)  # compiles kernels
        began_s = time.perf_counter()
        self._pass(calls)
        whole_s = time.perf_counter() - began_s
        repeats = max(MIN_PASSES, min(MAX_PASSES, round(target_s / whole_s)))
        for _ in range(MIN_PASSES):  # until the GPU's clocks have risen
            host_s = self._pass(calls)
        cycles = int(min(MAX_SLEEP_S, 1.5 * host_s + 50e-6) * SLEEP_HZ)
        return statistics.median(self._timed(calls, cycles) for _ in range(repeats)) / len(calls)

    @staticmethod
    def _pass(calls: Sequence[Call]) -> float:
        """Returns the seconds that the host needs for the launches."""
        began_s = time.perf_counter()
        for call in calls:
            call()
        host_s = time.perf_counter() - began_s
        torch.cuda.synchronize()
        return host_s

    @staticmethod
    def _timed(calls: Sequence[Call], cycles: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(cycles)
        begin.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        milliseconds: float = begin.elapsed_time(end)
        return milliseconds / 1e3


class NoClock:
    """Runs one of the calls and returns NaN: for dry runs."""

    def seconds(self, calls: Sequence[Call], target_s: float = TARGET_S) -> float:
        calls[-1]()
        return math.nan
