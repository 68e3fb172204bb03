"""Virtual time: a heap of what is to happen, and processes that can be killed, stopped and started between any two
events. Nothing waits, nothing is measured: the same seed gives the same events in the same order."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Act = Callable[[], None]


class Timeline:
    """Seconds begin at 0."""

    def __init__(self) -> None:
        self.now, self.events = 0.0, 0
        self._heap: list[tuple[float, int, Act]] = []
        self._number = 0

    def after(self, seconds: float, act: Act) -> None:
        self.at(self.now + seconds, act)

    def at(self, when: float, act: Act) -> None:
        self._number += 1  # of two at one time the earlier one is first
        heapq.heappush(self._heap, (when, self._number, act))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Runs events until that time, or until `done` after one of them; returns whether it was."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, act = heapq.heappop(self._heap)
            self.events += 1
            act()
            if done():
                return True
        self.now = max(self.now, until)
        return done()


class Process:
    """One run after another at one address. Timers are a run's: a kill drops them, a stop delays them until it goes on.

    `clock_offset`: of its wall clock, which nothing but a mutation reads.
    """

    def __init__(self, timeline: Timeline, name: str) -> None:
        self.timeline, self.name = timeline, name
        self.runs, self.alive, self.stopped = 0, False, False
        self.clock_offset = 0.0
        self.boot_id = f"{name}#0"
        self._held: list[tuple[int, Act]] = []

    @property
    def now(self) -> float:
        """Its monotonic clock."""
        return self.timeline.now

    def after(self, seconds: float, act: Act) -> None:
        """Calls `act` then, unless this run has ended."""
        run = self.runs
        self.timeline.after(seconds, lambda: self.do(run, act))

    def every(self, seconds: float, act: Act) -> None:
        """Calls `act` now and again after each so many seconds."""

        def again() -> None:
            act()
            self.after(seconds, again)

        again()

    def do(self, run: int, act: Act) -> None:
        """Calls `act` if that run is still there: now, or when it goes on."""
        if run != self.runs or not self.alive:
            return
        if self.stopped:
            self._held.append((run, act))
        else:
            act()

    def start(self) -> None:
        """Begins a run, unless there is one."""
        if not self.alive:
            self.runs += 1
            self.boot_id = f"{self.name}#{self.runs}"
            self.alive, self.stopped = True, False
            self.begin()

    def begin(self) -> None:
        """What a run does first."""

    def kill(self) -> None:
        self.alive, self.stopped = False, False
        self._held.clear()

    def stop(self) -> None:
        self.stopped = self.alive

    def go_on(self) -> None:
        if not self.stopped:
            return
        self.stopped = False
        held, self._held = self._held, []
        for at, (run, act) in enumerate(held):
            if self.stopped:
                self._held += held[at:]
                return
            self.do(run, act)
