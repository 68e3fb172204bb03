"""CPU time by process: what a step costs each of a cluster's processes, and the client that loads it."""

from __future__ import annotations

import time

import psutil

from bench.processes import Cluster

CLIENT = "client"


class CpuTime:
    """Sums of seconds by role, of the times between `start` and `stop`."""

    def __init__(self, target: Cluster) -> None:
        self._processes = {role: [psutil.Process(pid) for pid in pids] for role, pids in target.pids.items()}
        self._before: dict[str, float] = {}
        self.seconds = dict.fromkeys([*self._processes, CLIENT], 0.0)

    def start(self) -> None:
        self._before = self._now()

    def stop(self) -> None:
        for role, now in self._now().items():
            self.seconds[role] += now - self._before[role]

    def _now(self) -> dict[str, float]:
        """A process's times are whole ticks of 10 ms: only sums over many steps mean something."""
        found = {CLIENT: time.process_time()}
        for role, processes in self._processes.items():
            times = [process.cpu_times() for process in processes]
            found[role] = sum(each.user + each.system for each in times)
        return found
