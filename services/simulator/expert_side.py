"""Expert workers, their placement, and what attention workers feel of their deaths and their links."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from caracal_proto.placement_pb2 import Table

from services.membership.record import WorkerRecord
from services.planner.exchange import choices_of
from services.router.dispatch.suspects import HEALTHY_S, LOOK_S, Suspects
from services.router.placement.table_view import TableView
from services.simulator.attention import SimulatedAttention
from services.simulator.deployment import Deployment
from services.simulator.expert_lateness import overdue_after, until_avoided
from services.simulator.expert_pool import ExpertPool
from services.simulator.expert_registry import ExpertRegistry
from services.simulator.expert_retry import asked_again
from services.simulator.leader import SimulatedLeader
from services.simulator.pods import Pod, StatefulSet
from services.simulator.routing import Popularity

UPDATE_S = 20.0  # between two looks at what tokens choose, where that drifts


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
        self._drained: dict[str, Callable[[], None]] = {}  # by boot id: what to do when it has no experts any more
        self._waits: asyncio.TimerHandle | None = None
        self.blocked = False  # whether steps wait for experts
        self.blocked_s, self._blocked_at = 0.0, 0.0
        self._stopped: set[str] = set()  # workers that do not go on, but may later
        self._overdue_s: dict[str, float] = {}  # of the workers that have become slow: what was late before
        self._suspects = Suspects[str]()  # of attention workers, which are all taken for alike
        self._looks = False  # whether suspects are probed
        self._registry = ExpertRegistry(
            lambda: [self._record(pod) for pod in self.pods.ready], deployment.timing.lease_s, loop
        )
        self.leader = SimulatedLeader(
            deployment,
            self._registry,
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

    def die(self, pod: Pod, *, silent: bool, back_s: float = 0.0) -> None:
        """A process ends, or its machine: its connections end at once, or nothing comes from it any more."""
        self._registry.fell_silent(self._record(pod))
        self.pods.remove(pod)
        self.pods.start(pod.ordinal, back_s)
        if not silent:
            self._loop.call_later(self._d.timing.detect_s, self._disconnected, pod.boot_id)
        if (then := self._drained.pop(pod.boot_id, None)) is not None:
            then()
        self._lose(pod.name, silent=silent)

    def stop(self, pod: Pod, seconds: float) -> None:
        """A process does not go on for so long."""
        self._registry.fell_silent(self._record(pod))
        self._stopped.add(pod.name)
        self._lose(pod.name, silent=True)
        self._loop.call_later(seconds, self._goes_on, pod)

    def slow(self, name: str, times: float, seconds: float) -> None:
        """A worker takes so many times as long, for so many seconds."""
        self._overdue_s[name] = overdue_after(self.pool.call_s(self.pool.rows)).get(name, math.inf)
        self.pool.slow[name] = times
        self.update()
        self._avoid_late(name)
        self._loop.call_later(seconds, self._as_usual, name)

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

    def _record(self, pod: Pod) -> WorkerRecord:
        return WorkerRecord(
            worker_id=pod.name,
            role="expert",
            address=f"{'machine' if self._d.one_machine else pod.name}:{50051 + pod.ordinal}",
            boot_id=pod.boot_id,
            numerics_class="simulated",
            draining=pod.draining,
            capacity=self._d.capacity,
            fitting=self._d.fitting,
            host=pod.node,
        )

    def _disconnected(self, boot_id: str) -> None:
        self._registry.disconnected(boot_id)
        self.leader.wake()

    def _lose(self, name: str, *, silent: bool) -> None:
        """A worker answers no more: steps are late until it is avoided, or wait where no other has its experts."""
        if name not in self.pool.table.worker_ids or name in self.pool.dead:
            return
        timing, now = self._d.timing, self._loop.time()
        overdue_s = overdue_after(self.pool.call_s(self.pool.rows)).get(name, math.inf)
        self.pool.dead.add(name)
        again = asked_again(self.pool.table, self.pool.dead, self.leader.epoch)
        self.update()
        if again is None:
            self._block()
            return
        again_s = again * self._again_s
        if silent:
            late_s = until_avoided(
                self._suspects, name, now, overdue_s=overdue_s, silent_s=timing.silent_s, again_s=again_s
            )
        else:
            self._suspects.failed(name, now + timing.detect_s)
            late_s = timing.detect_s + again_s
        self._wait(late_s)

    def _avoid_late(self, name: str) -> None:
        """Has a worker avoided of which calls are overdue, if others have its experts."""
        took_s, overdue_s = self.pool.call_s(self.pool.rows).get(name, 0.0), self._overdue_s[name]
        again = asked_again(self.pool.table, {*self.pool.dead, name}, self.leader.epoch)
        if took_s <= overdue_s or again is None:
            return
        self.pool.dead.add(name)
        self.update()
        again_s = again * self._again_s  # of the others
        late_s = until_avoided(
            self._suspects, name, self._loop.time(), overdue_s=overdue_s, silent_s=math.inf, again_s=again_s
        )
        self._wait(late_s)

    @property
    def _again_s(self) -> float:
        """Seconds of a call that is sent again."""
        return self.pool.layer_s(1.0) + 2 * self._d.link.latency_s

    def _wait(self, seconds: float) -> None:
        """All steps under way take so much longer; then whoever is avoided is probed."""
        for worker in self._callers():
            worker.extend(seconds)
        if not self._looks:
            self._looks = True
            self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Probes suspects when it is time."""
        for name in self._suspects.due(self._loop.time()):
            answers = name not in self._stopped and any(pod.name == name for pod in self.pods.ready)
            took_s = self.pool.layer_s(1.0) * self.pool.slow.get(name, 1.0) if answers else self._d.timing.silent_s
            healthy = answers and took_s <= max(HEALTHY_S, self._overdue_s.get(name, 0.0))
            self._loop.call_later(took_s, self._probed, name, healthy)
        self._looks = bool(self._suspects.keys)
        if self._looks:
            self._loop.call_later(LOOK_S, self._look)

    def _probed(self, name: str, healthy: bool) -> None:
        if self._suspects.probed(name, healthy, self._loop.time()):
            self._recount()
            if name in self.pool.slow:
                self._avoid_late(name)

    def _goes_on(self, pod: Pod) -> None:
        self._stopped.discard(pod.name)
        if self.pods.pods.get(pod.ordinal) is pod:
            self._registry.goes_on(pod.boot_id)
            self.leader.wake()
            if self.blocked:  # whoever waits for it is answered now
                self._recount()
                self._go_on()

    def _as_usual(self, name: str) -> None:
        self.pool.slow.pop(name, None)
        self._overdue_s.pop(name, None)
        self.update()

    def _recount(self) -> None:
        """Takes those for dead that are gone, stopped or avoided."""
        table, alive = self.leader.table, {pod.boot_id for pod in self.pods.ready}
        gone = {worker.worker_id for worker in table.workers if worker.boot_id not in alive} if table else set()
        dead = (gone | self._stopped) & set(self.pool.table.worker_ids)
        for name in sorted(self._suspects.keys & set(self.pool.table.worker_ids)):
            if asked_again(self.pool.table, dead | {name}, self.leader.epoch) is not None:
                dead.add(name)
        self.pool.dead = dead
        self.update()

    def _published(self, table: Table, view: TableView) -> None:
        self.pool.table = view
        self._suspects.keep_only(view.worker_ids)
        self._recount()
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
            worker.block("experts")

    def _waited(self) -> None:
        self._waits = self._loop.call_later(self._d.expert_wait_s, self._waited)
        for worker in self._callers():
            if worker.busy and not worker.life.stopped:
                worker.hand_back("unavailable")

    def _go_on(self) -> None:
        if not self.blocked or self.pool.lost:
            return
        self.blocked = False
        self.blocked_s += self._loop.time() - self._blocked_at
        if self._waits is not None:
            self._waits.cancel()
        for worker in self._callers():
            worker.resume("experts")
