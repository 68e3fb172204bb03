"""Attention workers as pods: their deaths, drains and views, and how busy they are together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import astuple, dataclass

from services.router.requests.worker_choice import AttentionWorkerView
from services.simulator.attention import SimulatedAttention
from services.simulator.deployment import Deployment
from services.simulator.page_fetches import Handover
from services.simulator.pods import Pod, StatefulSet

Make = Callable[[str, str], SimulatedAttention]


@dataclass(frozen=True, slots=True)
class Done:
    """What workers have done. `served_s`: for which their steps have kept expert workers busy; `queried`, `hit`: tokens
    of prompts that were looked up in caches, and that were there; `migrated`: sequences whose pages have come from a
    worker that drained, `computed`: that went without some of them; `pages`: that have come."""

    steps: int = 0
    rows: int = 0
    served_s: float = 0.0
    preemptions: int = 0
    queried: int = 0
    hit: int = 0
    migrated: int = 0
    computed: int = 0
    pages: int = 0

    def __add__(self, other: Done) -> Done:
        return Done(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @classmethod
    def by(cls, worker: SimulatedAttention) -> Done:
        scheduler, fetches = worker.scheduler, worker.fetches
        return cls(
            worker.steps,
            worker.total_rows,
            worker.served_s,
            scheduler.preemptions,
            scheduler.prefix_queries,
            scheduler.prefix_hits,
            fetches.migrated,
            fetches.computed,
            fetches.pages,
        )


class AttentionSide:
    """`make` starts a worker with that id and boot id. `changed` is called when there may be something to notice."""

    def __init__(
        self, deployment: Deployment, make: Make, changed: Callable[[], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._d, self._make, self.changed, self._loop = deployment, make, changed, loop
        self.workers: dict[str, SimulatedAttention] = {}
        timing = deployment.timing
        start_s = timing.pod_s + timing.attention_load_s
        self.pods = StatefulSet("attention", start_s, deployment.pods_per_node, loop, self._joined)
        self._gone = Done()
        self._seen_rows, self._rows_at = 0, 0.0  # when the rate was asked for last

    def views(self) -> list[AttentionWorkerView]:
        """What routers read of the workers; a silent one still has its lease."""
        return [worker.view() for worker in self.workers.values() if worker.life.listed]

    def busy(self) -> list[SimulatedAttention]:
        return [worker for worker in self.workers.values() if worker.busy]

    def done(self) -> Done:
        """What all workers have done, those that are gone included."""
        return sum(map(Done.by, self.workers.values()), self._gone)

    def rows_s(self) -> float:
        """Rows per second since this was asked last."""
        rows, now = self.done().rows, self._loop.time()
        rate = (rows - self._seen_rows) / (now - self._rows_at) if now > self._rows_at else 0.0
        self._seen_rows, self._rows_at = rows, now
        return rate

    def die(self, pod: Pod, *, silent: bool, back_s: float = 0.0) -> None:
        """A process ends, or its machine: its connections end as well, or nothing comes from it any more until routers
        leave it, or its lease ends."""
        worker = self.workers[pod.name]
        worker.die(silent=silent)
        self.pods.remove(pod)
        self.pods.start(pod.ordinal, back_s)
        if silent:
            self._loop.call_later(self._d.timing.lease_s, self._forget, pod.name, worker)
        else:
            self._loop.call_later(self._d.timing.detect_s, self._lost, pod.name, worker)
        self.changed()

    def stop(self, pod: Pod, seconds: float) -> None:
        """A process does not go on for so long."""
        worker = self.workers[pod.name]
        worker.stop()
        self._loop.call_later(seconds, worker.go_on)
        self.changed()

    def slow(self, pod: Pod, late_s: float, seconds: float) -> None:
        """For so long all that comes from a worker is late, beginning with what is on its way."""
        worker = self.workers[pod.name]
        worker.life.late_s = late_s
        worker.block("link")
        self._loop.call_later(late_s, worker.resume, "link")
        self._loop.call_later(seconds, self._usual, worker)
        self.changed()

    def drain(self, pod: Pod, then: Callable[[], None]) -> None:
        """Hands a worker's sequences back; `then` is called when others have fetched their pages, or will not."""
        worker = self.workers[pod.name]
        worker.life.draining = pod.draining = True

        def left() -> None:
            self._forget(pod.name, worker)
            then()

        handover = Handover(left)
        worker.hand_back("draining", handover if self._d.kv_migration else None)
        if handover.wanted:
            self._loop.create_task(handover.wait(self._loop, worker.life)).add_done_callback(_raise)
        else:
            left()

    @staticmethod
    def _usual(worker: SimulatedAttention) -> None:
        worker.life.late_s = 0.0

    def _lost(self, name: str, worker: SimulatedAttention) -> None:
        worker.life.silent = False
        worker.hand_back("lost")
        self._forget(name, worker)

    def _forget(self, name: str, worker: SimulatedAttention) -> None:
        worker.life.alive = False
        if self.workers.get(name) is worker:
            self._gone += Done.by(worker)
            del self.workers[name]

    def _joined(self, pod: Pod) -> None:
        self.workers[pod.name] = self._make(pod.name, pod.boot_id)


def _raise(task: asyncio.Task[None]) -> None:
    """Has the loop hear of a bug."""
    if not task.cancelled():
        task.result()
