"""Whether a simulated attention worker is there, and what others can see of it."""

from __future__ import annotations

import asyncio
import math

from services.simulator.deployment import Timing


class Life:
    """`late_s`: by which its answers to probes are late. `draining`: it takes no new sequences."""

    def __init__(self, timing: Timing, loop: asyncio.AbstractEventLoop) -> None:
        self._timing, self._loop = timing, loop
        self.alive, self.draining = True, False
        self.silent = False  # its machine is gone, and nobody has noticed
        self.stopped = False  # its process does not go on, but may later
        self.late_s = 0.0
        self.began_at = loop.time()
        self._quiet_at = math.inf  # since when nothing has come from it, its lease included
        self._answers = asyncio.Event()
        self._answers.set()

    @property
    def reachable(self) -> bool:
        """Whether a router can begin an attempt there; at a silent one it gets no answer."""
        return (self.alive or self.silent) and not self.draining

    @property
    def well(self) -> bool:
        """Whether there is nothing about it for a router to notice."""
        return self.alive and not self.stopped and not self.late_s

    @property
    def listed(self) -> bool:
        """Whether it has a lease."""
        return (self.alive or self.silent) and self._loop.time() < self._quiet_at + self._timing.lease_s

    def die(self, *, silent: bool) -> None:
        self.alive, self.silent = False, silent
        self._hush()

    def stop(self) -> None:
        self.stopped = True
        self._hush()

    def go_on(self) -> None:
        self.stopped = False
        if self.alive:
            self._quiet_at = math.inf
            self._answers.set()

    async def answer(self) -> None:
        """Answers a probe, once it can."""
        await self._answers.wait()
        await asyncio.sleep(self._timing.probe_s + self.late_s)

    def _hush(self) -> None:
        self._quiet_at = min(self._quiet_at, self._loop.time())
        self._answers.clear()
