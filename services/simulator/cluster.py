"""A whole cluster in virtual time: routers, workers, leader, autoscalers, faults."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from services.router.requests.attention_workers import HINTS_S, LOOK_S, REFRESH_S, reading_pause_s
from services.router.requests.probe_times import FEWEST
from services.simulator.attention import SimulatedAttention
from services.simulator.attention_side import AttentionSide
from services.simulator.autoscaler import SYNC_S, HorizontalPodAutoscaler, Scaling
from services.simulator.deployment import Deployment
from services.simulator.expert_queue import ExpertQueue
from services.simulator.expert_side import ExpertSide
from services.simulator.faults import Fault
from services.simulator.generation import Generation
from services.simulator.outcomes import Outcomes
from services.simulator.pods import Pod
from services.simulator.prefix_reports import PrefixReports
from services.simulator.router import DIED, SimulatedRouter
from services.simulator.routing import Popularity, Routing
from services.simulator.step_time import StepTimes

Side = AttentionSide | ExpertSide


class SimulatedCluster:
    """`skip` False: every step is an event of its own. No conversation goes on after `until`."""

    def __init__(
        self,
        deployment: Deployment,
        routing: Routing,
        loop: asyncio.AbstractEventLoop,
        seed: int,
        *,
        skip: bool = True,
        until: float = math.inf,
    ) -> None:
        self._d, self._loop, self._skip, self._until = deployment, loop, skip, until
        self.outcomes = Outcomes()
        self._watching = asyncio.Event()
        self.attention = AttentionSide(deployment, self._make, self._watching.set, loop)
        popularity = Popularity(routing, deployment.shape.layers, deployment.shape.experts, seed)
        self.experts = ExpertSide(
            deployment,
            popularity,
            lambda: list(self.attention.workers.values()),
            self.attention.rows_s,
            loop,
            seed,
        )
        self.times = StepTimes(deployment, self.experts.pool)
        self.attention.pods.begin(deployment.attention)
        self.routers = [SimulatedRouter(deployment, self.attention.workers, loop) for _ in range(deployment.routers)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._served: list[dict[asyncio.Task[None], None]] = [{} for _ in self.routers]  # in their order
        self._waiting: dict[Generation, None] = {}  # requests that have not ended
        self.upgraded = 0  # pods
        self.error: BaseException | None = None  # a bug of the simulator
        self._reports: PrefixReports | None = None  # until a request comes whose prompt may be cached
        self._hints_at = -math.inf
        self._refresh()
        self._begin(self._refreshing())
        self._begin(self._looking())
        self._begin(self.experts.leader.run())
        if routing.drift_s or routing.crowd[1]:
            self._begin(self.experts.follow_choices())

    def serve(self, generation: Generation) -> None:
        """Begins to serve a request, at one router after the other."""
        generation.router = generation.number % len(self.routers)
        generation.end = "open"
        self.outcomes.generations.append(generation)
        if self._reports is None and self._d.prefix_cache and generation.conversation is not None:
            self._reports = PrefixReports(self.attention.workers, self._loop)
            self._begin(self._reports.run())
        served = self._served[generation.router]
        task = self._begin(self.routers[generation.router].serve(generation))
        served[task] = self._waiting[generation] = None
        task.add_done_callback(served.pop)
        task.add_done_callback(lambda _: self._go_on(generation))

    def _go_on(self, generation: Generation) -> None:
        """Has the next turn of a conversation come, if this one was answered."""
        del self._waiting[generation]
        then, edge_s = generation.then, self._d.timing.edge_s
        if then is not None and generation.end == "finished":
            then.arrived = self._loop.time() + generation.pause_s
            if then.arrived + edge_s < self._until:
                self._loop.call_at(then.arrived + edge_s, self.serve, then)

    def autoscale(self, scalings: Mapping[str, Scaling]) -> None:
        """Has pods of these roles scaled: attention by the pages in use in %, experts by the time that calls wait; and
        each by the requests that wait, where that has a target."""
        for role, scaling in scalings.items():
            self._begin(self._scaled(self._side(role), scaling))

    def served(self) -> list[asyncio.Task[None]]:
        """The requests that have not ended."""
        return [task for served in self._served for task in served]

    def strike(self, fault: Fault) -> None:
        """Has a fault happen at its time."""
        self._loop.call_at(fault.at, self._strike, fault)

    def count(self) -> None:
        """Adds up the pods' time until now."""
        for side in (self.attention, self.experts):
            side.pods.count()

    def _make(self, worker_id: str, boot_id: str) -> SimulatedAttention:
        worker = SimulatedAttention(
            worker_id, boot_id, self._d, self.times, self._loop, self.outcomes.ran, skip=self._skip
        )
        if self.experts.blocked:
            worker.block("experts")
        return worker

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self.error is None:
            self.error = error

    def _refresh(self) -> None:
        views, now = self.attention.views(), self._loop.time()
        known_s = 2 * REFRESH_S * (FEWEST + 1)
        new = any(now < worker.life.began_at + known_s for worker in self.attention.workers.values())
        probe = new or self._watching.is_set()
        for router in self.routers:
            router.refresh(views, probe=probe)
        if self._reports is not None and self._loop.time() >= self._hints_at + HINTS_S:
            self._hints_at, hints = self._loop.time(), self._reports.read()
            for router in self.routers:
                router.read_hints(hints)
        busy = self.attention.busy()
        self.times.callers = len(busy)
        self.times.rows = sum(worker.rows for worker in busy) / len(busy) if busy else 0.0

    async def _looking(self) -> None:
        """Has routers look at workers that may not be well, while there are any, as often as real ones do."""
        while True:
            await self._watching.wait()
            look = 0
            while self._to_watch():
                looks = math.floor(self._loop.time() / LOOK_S + 1e-6)  # until now, whatever rounding makes of it
                await asyncio.sleep((looks + 1) * LOOK_S - self._loop.time())
                for router in self.routers:
                    router.look(look)
                look += 1
            self._watching.clear()

    def _to_watch(self) -> bool:
        """Whether there is something for routers to notice."""
        ill = any(not worker.life.well for worker in self.attention.workers.values())
        return ill or any(router.watch.busy for router in self.routers)

    async def _refreshing(self) -> None:
        while True:
            serving = any(view.serving for view in self.attention.views())
            busy = any(router.attempts for router in self.routers)
            await asyncio.sleep(reading_pause_s(REFRESH_S, serving=serving, busy=busy))
            self._refresh()

    def _side(self, role: str) -> Side:
        return self.attention if role == "attention" else self.experts

    async def _scaled(self, side: Side, scaling: Scaling) -> None:
        autoscaler, now = HorizontalPodAutoscaler(scaling), self._loop.time
        queue = ExpertQueue(lambda rows: self.experts.pool.layer_s(rows), self.attention.done, now())
        while True:
            await asyncio.sleep(SYNC_S)
            pods = side.pods
            ready = [pod for pod in pods.ready if not pod.draining]
            if side is self.experts:
                queue.look(now())
                values = [queue.recent_ms(now())] * len(ready)
            else:
                values = self._used(ready)
            queued = sum(not generation.tokens for generation in self._waiting)
            wanted = autoscaler.sync(now(), pods.wanted, values, pods.starting, queued)
            for pod in pods.scale(wanted):
                if not pod.draining and pod.ready_at >= 0:
                    side.drain(pod, self._removal(side, pod))
                elif pod.ready_at < 0:
                    pods.remove(pod)

    def _used(self, ready: Sequence[Pod]) -> list[float]:
        """The metric of attention pods: % of the pages that are in use."""
        workers = (self.attention.workers.get(pod.name) for pod in ready)
        return [100 * worker.view().kv_usage for worker in workers if worker is not None]

    @staticmethod
    def _removal(side: Side, pod: Pod) -> Callable[[], None]:
        return lambda: side.pods.remove(pod)

    def _strike(self, fault: Fault) -> None:
        side = self._side("attention" if fault.kind.startswith("attention") else "expert")
        if fault.kind == "router dies":
            for task in list(self._served[fault.ordinal]):
                task.cancel(DIED)
        elif fault.kind.endswith("upgrade"):
            self._begin(self._upgrade(side, fault.partition))
        elif fault.kind.endswith("node lost"):
            for pod in [pod for pod in side.pods.ready if pod.node.endswith(f"-{fault.ordinal}")]:
                side.die(pod, silent=True, back_s=self._d.timing.node_back_s)
        elif fault.kind.endswith("pod stops"):
            for pod in [pod for pod in side.pods.ready if pod.ordinal == fault.ordinal]:
                side.stop(pod, fault.seconds)
        elif fault.kind == "slow attention link":
            for pod in [pod for pod in self.attention.pods.ready if pod.ordinal == fault.ordinal]:
                self.attention.slow(pod, fault.late_s, fault.seconds)
        elif fault.kind.endswith("pod dies"):
            for pod in [pod for pod in side.pods.ready if pod.ordinal == fault.ordinal]:
                side.die(pod, silent=False)
        else:
            self._slow(fault)

    def _slow(self, fault: Fault) -> None:
        link, name = self.experts.pool.link, f"expert-{fault.ordinal}"
        if fault.kind == "slow expert":
            self.experts.slow(name, fault.times, fault.seconds)
            return
        link[name] = fault.times
        self.experts.update()

        def usual() -> None:
            link.pop(name, None)
            self.experts.update()

        self._loop.call_later(fault.seconds, usual)

    async def _upgrade(self, side: Side, partition: int) -> None:
        """One pod after the other, from the highest ordinal down to the partition, as a StatefulSet does it."""
        for ordinal in sorted((one for one in side.pods.pods if one >= partition), reverse=True):
            pod = side.pods.pods.get(ordinal)
            if pod is None or pod.ready_at < 0:
                continue
            drained = asyncio.Event()
            side.drain(pod, drained.set)
            await drained.wait()
            side.pods.remove(pod)
            if ordinal not in side.pods.pods:  # else it has died meanwhile, and starts again already
                side.pods.start(ordinal)
            await side.pods.pods[ordinal].ready.wait()
            self.upgraded += 1
            await asyncio.sleep(self._d.timing.drain_s)
