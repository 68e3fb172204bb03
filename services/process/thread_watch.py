"""Whether a thread of this process stands still: stopped, or waiting for something that does not come.

Whoever computes, polls, or waits with a time limit again and again uses CPU time, so a thread's own CPU clock shows
that it goes on; how long its work takes does not matter. Looks are counted, not seconds: what holds the whole process
up, or the watcher, is no sign against the thread.

A thread that computes and gets nowhere is another case: it uses CPU time, and what it counts stands still. That is
measured in its own CPU time, so a machine that is slow, or a thread that gets no core, is no sign either.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Hashable
from pathlib import Path

LOOK_S = 0.1  # between two looks
STILL_S = 1.0  # without any CPU time, before a thread stands still
LEAVES_S = 30.0  # that it stands still, before its process ends to be started again
NOWHERE_S = 2.0  # of its CPU time without any progress, at least, before a thread counts as one that gets nowhere
COMPILES_S = 60.0  # the same where it may have to compile a kernel
Pace = Callable[[], tuple[Hashable, float]]  # what changes as long as there is progress, and the seconds between two
_BUSY = frozenset("RD")  # states of threads that are to run when there is a core, or wait for a disk


class ThreadWatch:
    """Follows one thread, or one after the other. Call `look` every LOOK_S.

    Only Linux tells what it needs; elsewhere no thread is said to stand still.
    """

    def __init__(self, still_s: float = STILL_S, beside: Collection[int] = ()) -> None:
        """`beside`: processes that the thread works with: while they compute, it may wait for them."""
        self._limit, self._beside = round(still_s / LOOK_S), beside
        self._seen: tuple[int, int] | None = None  # native id of the thread, and the CPU time of all
        self._looks = 0  # since either has changed

    def look(self, thread: int | None) -> bool:
        """Whether the thread of this native id stands still; None = nobody has anything to do."""
        seen = (thread, used) if thread and (used := self._used_ns(thread)) is not None else None
        if seen is None or seen != self._seen:
            self._seen, self._looks = seen, 0
            return False
        self._looks += 1
        if self._looks < self._limit:
            return False
        if self._looks == self._limit and (_state(seen[0]) in _BUSY or _has_children(seen[0])):
            self._looks = 0
            return False
        return True

    def _used_ns(self, thread: int) -> int | None:
        """The CPU time that the thread and who works beside it have used; None where it is not known."""
        if sys.platform != "linux":
            return None
        try:  # the clocks that pthread_getcpuclockid and clock_getcpuclockid name
            return _clock_ns(thread, 6) + sum(_clock_ns(process, 2) for process in self._beside)
        except OSError:
            return None


class ProgressWatch:
    """Follows the progress of one thread, or of one after the other. Call `look` every LOOK_S."""

    def __init__(self) -> None:
        self._seen: tuple[int, Hashable] | None = None
        self._used_ns = 0  # CPU time of the thread when that was seen first

    def look(self, thread: int | None, progress: Hashable, limit_s: float) -> bool:
        """Whether the thread has used so much CPU time since its progress has changed; None = it has nothing to do."""
        if not thread or sys.platform != "linux":
            self._seen = None
            return False
        try:
            used_ns = _clock_ns(thread, 6)
        except OSError:
            self._seen = None
            return False
        if (thread, progress) != self._seen:
            self._seen, self._used_ns = (thread, progress), used_ns
        return used_ns - self._used_ns >= limit_s * 1e9


def _clock_ns(number: int, kind: int) -> int:
    return time.clock_gettime_ns((~number << 3) | kind)


def _state(thread: int) -> str:
    """The state letter of /proc, in whose line the thread's name may have any character."""
    try:
        return Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _has_children(thread: int) -> bool:
    """Whether it has started processes that still run: compilers, of kernels that are compiled when needed."""
    try:
        return bool(Path(f"/proc/self/task/{thread}/children").read_text().strip())
    except OSError:
        return False
