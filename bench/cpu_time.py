"""CPU time by process: what a decode step costs each of a cluster's processes, and the client that loads it."""

from __future__ import annotations

import time

import psutil

from bench.processes import Cluster

CLIENT = "client"


class CpuTime:
    """Seconds of CPU by role, summed over the decode steps of several loads."""

    def __init__(self, target: Cluster) -> None:
        self._processes = {role: [psutil.Process(pid) for pid in pids] for role, pids in target.pids.items()}
        self._seconds = dict.fromkeys([*self._processes, CLIENT], 0.0)
        self._steps = 0
        self._before: dict[str, float] = {}

    def start(self) -> None:
        """To be called when every stream of a load has its first token."""
        self._before = self._now()

    def stop(self, steps: int) -> None:
        """To be called at the end of that load, with its decode steps."""
        self._steps += steps
        for role, now in self._now().items():
            self._seconds[role] += now - self._before[role]

    def ms_per_step(self) -> dict[str, float]:
        """Milliseconds that a decode step has cost, by role."""
        return {role: 1e3 * seconds / self._steps for role, seconds in self._seconds.items()}

    def _now(self) -> dict[str, float]:
        """A process's times are whole ticks of 10 ms: only sums over many steps mean something."""
        found = {CLIENT: time.process_time()}
        for role, processes in self._processes.items():
            times = [process.cpu_times() for process in processes]
            found[role] = sum(each.user + each.system for each in times)
        return found
