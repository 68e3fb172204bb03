"""Attention workers as pods: their deaths, drains and views, and how busy they are together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.router.requests.attention_workers import DESCRIBE_S
from services.router.requests.probe_times import FLOOR_S
from services.router.requests.silent_workers import StallTimeouts
from services.router.requests.worker_choice import AttentionWorkerView
from services.simulator.attention import SimulatedAttention
from services.simulator.deployment import Deployment
from services.simulator.pods import Pod, StatefulSet

Make = Callable[[str, str], SimulatedAttention]


class AttentionSide:
    """`make` starts a worker with that id and boot id."""

    def __init__(self, deployment: Deployment, make: Make, loop: asyncio.AbstractEventLoop) -> None:
        self._d, self._make, self._loop = deployment, make, loop
        self.workers: dict[str, SimulatedAttention] = {}
        timing = deployment.timing
        start_s = timing.pod_s + timing.attention_load_s
        self.pods = StatefulSet("attention", start_s, deployment.pods_per_node, loop, self._joined)
        self._steps = self._preemptions = self._rows = 0  # of workers that are gone, as the next ones
        self._queried = self._hit = 0
        self._served_s = 0.0
        self._seen_rows, self._rows_at = 0, 0.0  # when the rate was asked for last

    def views(self) -> list[AttentionWorkerView]:
        """What routers read of the workers; a silent one still has its lease."""
        return [worker.view() for worker in self.workers.values() if worker.alive or worker.silent]

    def busy(self) -> list[SimulatedAttention]:
        return [worker for worker in self.workers.values() if worker.busy]

    @property
    def steps(self) -> int:
        """How many steps all workers have made."""
        return self._steps + sum(worker.steps for worker in self.workers.values())

    @property
    def served_s(self) -> float:
        """For how long all workers' steps have kept expert workers busy."""
        return self._served_s + sum(worker.served_s for worker in self.workers.values())

    @property
    def preemptions(self) -> int:
        return self._preemptions + sum(worker.scheduler.preemptions for worker in self.workers.values())

    @property
    def prefix_tokens(self) -> tuple[int, int]:
        """How many tokens of prompts were looked up in caches, and how many were there."""
        schedulers = [worker.scheduler for worker in self.workers.values()]
        queried, hit = sum(s.prefix_queries for s in schedulers), sum(s.prefix_hits for s in schedulers)
        return self._queried + queried, self._hit + hit

    @property
    def rows(self) -> int:
        """How many rows all workers' steps have had."""
        return self._rows + sum(worker.total_rows for worker in self.workers.values())

    def rows_s(self) -> float:
        """Rows per second since this was asked last."""
        rows, now = self.rows, self._loop.time()
        rate = (rows - self._seen_rows) / (now - self._rows_at) if now > self._rows_at else 0.0
        self._seen_rows, self._rows_at = rows, now
        return rate

    def die(self, pod: Pod, *, silent: bool, back_s: float = 0.0) -> None:
        """A process ends, or its machine; routers notice it by the connection, or by probes without an answer."""
        worker = self.workers[pod.name]
        worker.die(silent=silent)
        self.pods.remove(pod)
        self.pods.start(pod.ordinal, back_s)
        # Another worker that answers shows that this one is late.
        probed_s = FLOOR_S if len(self.workers) > 1 else DESCRIBE_S
        noticed_s = StallTimeouts().probe_after_s + probed_s if silent else self._d.timing.detect_s
        self._loop.call_later(noticed_s, self._lost, pod.name, worker)

    def drain(self, pod: Pod, then: Callable[[], None]) -> None:
        """Hands a worker's sequences back; its pages are not fetched here, but computed again."""
        worker = self.workers[pod.name]
        worker.draining = pod.draining = True
        worker.hand_back("draining")
        self._forget(pod.name, worker)
        then()

    def _lost(self, name: str, worker: SimulatedAttention) -> None:
        worker.silent = False
        worker.hand_back("lost")
        self._forget(name, worker)

    def _forget(self, name: str, worker: SimulatedAttention) -> None:
        worker.alive = False
        if self.workers.get(name) is worker:
            self._rows += worker.total_rows
            self._steps += worker.steps
            self._served_s += worker.served_s
            self._preemptions += worker.scheduler.preemptions
            self._queried += worker.scheduler.prefix_queries
            self._hit += worker.scheduler.prefix_hits
            del self.workers[name]

    def _joined(self, pod: Pod) -> None:
        self.workers[pod.name] = self._make(pod.name, pod.boot_id)
