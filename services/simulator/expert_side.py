"""Expert workers, their placement, and what attention workers feel of their deaths and their links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from caracal_proto.placement_pb2 import Table

from services.membership.record import WorkerRecord
from services.planner.exchange import choices_of
from services.router.placement.table_view import TableView
from services.router.placement.worker_registry import DISCONNECTED_S
from services.simulator.attention import SimulatedAttention
from services.simulator.deployment import Deployment
from services.simulator.expert_pool import ExpertPool
from services.simulator.expert_retry import asked_again
from services.simulator.leader import SimulatedLeader
from services.simulator.pods import Pod, StatefulSet
from services.simulator.routing import Popularity

UPDATE_S = 20.0  # between two looks at what tokens choose, where that drifts
BUSY_MOST = 0.98


class ExpertSide:
    """`callers` gives the attention workers that are there; `rows_s`: tokens per second that go through a layer."""

    def __init__(
        self,
        deployment: Deployment,
        popularity: Popularity,
        callers: Callable[[], Iterable[SimulatedAttention]],
        rows_s: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
        seed: int,
    ) -> None:
        self._d, self._popularity, self._callers, self._loop = deployment, popularity, callers, loop
        self._unnoticed: dict[str, WorkerRecord] = {}  # dead workers that the leader takes for alive, by boot id
        self._drained: dict[str, Callable[[], None]] = {}  # by boot id: what to do when it has no experts any more
        self._waits: asyncio.TimerHandle | None = None
        self.blocked = False  # whether steps wait for experts
        self.blocked_s, self._blocked_at = 0.0, 0.0
        self.leader = SimulatedLeader(
            deployment,
            self.records,
            lambda: self.pool,
            lambda: rows_s() * choices_of(deployment.shape, deployment.serving),
            self._published,
            loop,
            seed,
        )
        timing = deployment.timing
        self.pods = StatefulSet("expert", timing.pod_s, deployment.pods_per_node, loop, lambda _: self.leader.wake())
        self.pods.begin(deployment.experts)
        self.pool = ExpertPool(deployment, self.leader.first_table(), popularity.at(0.0))

    def records(self) -> list[WorkerRecord]:
        """What the leader takes for alive."""
        return [*map(self._record, self.pods.ready), *self._unnoticed.values()]

    def die(self, pod: Pod, *, silent: bool, back_s: float = 0.0) -> None:
        """A process ends, or its machine: its connections end at once, or nothing comes from it any more."""
        timing = self._d.timing
        record = self._unnoticed[pod.boot_id] = self._record(pod)
        self.pods.remove(pod)
        self.pods.start(pod.ordinal, back_s)
        detect_s = timing.silent_s if silent else timing.detect_s
        self._loop.call_later(timing.lease_s if silent else DISCONNECTED_S, self._noticed, record.boot_id)
        if (then := self._drained.pop(pod.boot_id, None)) is not None:
            then()
        if pod.name not in self.pool.table.worker_ids:
            return
        self.pool.dead.add(pod.name)
        again = asked_again(self.pool.table, self.pool.dead, self.leader.epoch)
        self.update()
        if again is None:
            self._block()
        else:
            for worker in self._callers():
                worker.extend(detect_s + again * (self.pool.layer_s(1.0) + 2 * self._d.link.latency_s))

    def drain(self, pod: Pod, then: Callable[[], None]) -> None:
        """Has a pod's experts moved elsewhere; `then` is called when it has none."""
        pod.draining = True
        self._drained[pod.boot_id] = then
        self.leader.wake()

    def update(self) -> None:
        """After any change of the pool."""
        self.pool.update()
        for worker in self._callers():
            worker.changed()

    async def follow_choices(self) -> None:
        """Keeps the pool at what tokens choose now."""
        while True:
            await asyncio.sleep(UPDATE_S)
            self.pool.share_LE = self._popularity.at(self._loop.time())
            self.update()

    def queue_ms(self, busy: float, rows: float) -> float:
        """What the pods' metric says: how long a call waits for a launch, as at one server that is so busy with
        launches of so many rows."""
        busy = min(BUSY_MOST, busy)
        return 1e3 * busy / (2 * (1 - busy)) * self.pool.layer_s(rows)

    def _record(self, pod: Pod) -> WorkerRecord:
        return WorkerRecord(
            worker_id=pod.name,
            role="expert",
            address=f"{pod.name}:50051",
            boot_id=pod.boot_id,
            numerics_class="simulated",
            draining=pod.draining,
            capacity=self._d.capacity,
            host=pod.node,
        )

    def _noticed(self, boot_id: str) -> None:
        self._unnoticed.pop(boot_id, None)
        self.leader.wake()

    def _published(self, table: Table, view: TableView) -> None:
        alive = {pod.boot_id for pod in self.pods.ready}
        self.pool.table = view
        self.pool.dead = {worker.worker_id for worker in table.workers if worker.boot_id not in alive}
        self.update()
        used = set(view.worker_ids)
        for pod in self.pods.ready:
            if pod.boot_id in self._drained and pod.name not in used:
                self._drained.pop(pod.boot_id)()
        if self.blocked:
            self._go_on()

    def _block(self) -> None:
        """Steps wait for experts; one that has waited for `expert_wait_s` gives its sequences up."""
        if not self.blocked:
            self.blocked, self._blocked_at = True, self._loop.time()
            self._waits = self._loop.call_later(self._d.expert_wait_s, self._waited)
        for worker in self._callers():
            worker.block()

    def _waited(self) -> None:
        self._waits = self._loop.call_later(self._d.expert_wait_s, self._waited)
        for worker in self._callers():
            if worker.busy:
                worker.hand_back("unavailable")

    def _go_on(self) -> None:
        if not self.blocked or self.pool.lost:
            return
        self.blocked = False
        self.blocked_s += self._loop.time() - self._blocked_at
        if self._waits is not None:
            self._waits.cancel()
        for worker in self._callers():
            worker.resume()
