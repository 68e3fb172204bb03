"""The placement leader's loop in virtual time: its plans, budgets and tables are the real ones.

Workers load what a plan gives them before the table is published, and a change ends early when one of them dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
from caracal_proto.placement_pb2 import Table

from services.expert_worker.load import TAU_S
from services.membership.record import WorkerRecord
from services.router.placement.balance_budget import BalanceBudget
from services.router.placement.balancer import LOAD_S
from services.router.placement.change import DRAIN_CALLS_S, gains
from services.router.placement.leader import LOOK_S, TICK_S
from services.router.placement.load import Load
from services.router.placement.load_reader import SLOW
from services.router.placement.plan import Inputs, Plan, Shape, inputs_of, make_plan
from services.router.placement.table_view import TableView
from services.router.placement.tables import to_table
from services.simulator.deployment import Deployment
from services.simulator.expert_pool import ExpertPool
from services.simulator.expert_registry import ExpertRegistry


class SimulatedLeader:
    """`registry`: of the expert workers taken for alive; `rate`: assignments of a layer per second, all experts;
    `published` is called with every new table."""

    def __init__(
        self,
        deployment: Deployment,
        registry: ExpertRegistry,
        pool: Callable[[], ExpertPool],
        rate: Callable[[], float],
        published: Callable[[Table, TableView], None],
        loop: asyncio.AbstractEventLoop,
        seed: int,
    ) -> None:
        self._d, self._registry, self._pool, self._rate, self._published = deployment, registry, pool, rate, published
        self._loop, self._rng = loop, np.random.default_rng([seed, 3])
        shape = deployment.shape
        self._shape = Shape(
            layers=shape.layers, experts=shape.experts, replicas=deployment.replicas, extra=deployment.extra
        )
        budget = deployment.balance_gb_per_minute * 1e9
        self._budget = BalanceBudget(budget, int(deployment.expert_bytes), loop.time()) if budget else None
        self.table: Table | None = None
        self._changed = asyncio.Event()
        self._load: Load | None = None
        self._balanced, self._read_at = True, 0.0
        self._seen: tuple[Inputs, Load | None, Table | None] | None = None
        self.loaded = self.tables = self.rebalances = 0

    def wake(self) -> None:
        """A worker has come, gone, or wants to leave."""
        self._registry.changed()
        self._changed.set()

    @property
    def epoch(self) -> int:
        """The table's; 0 before the first."""
        return self.table.epoch if self.table else 0

    def first_table(self) -> TableView:
        """The table of a cluster that has begun before this time: nothing has to be loaded for it."""
        records = self._registry.living()
        plan = self._plan(records)
        self.table = to_table(1, "simulated", plan.after, records)
        return plan.after

    async def run(self) -> None:
        while True:
            self._changed.clear()
            records = await self._registry.alive()
            self._read_load()
            now = inputs_of(records, ()), self._load, self.table
            if self._seen is None or any(a is not b and a != b for a, b in zip(now, self._seen, strict=True)):
                self._seen = now
                plan = self._plan(records)
                if plan.complete and plan.differs and await self._change(plan, records):
                    continue
            await self._wait(self._look_s)

    def _plan(self, records: Sequence[WorkerRecord]) -> Plan:
        moves = 0 if self._balanced or self._budget is None else self._budget.moves(self._loop.time())
        inputs = inputs_of(records, ())
        return make_plan(self._shape, self.table, records, (), inputs, self._load, moves)

    def _read_load(self) -> None:
        """Reads what experts were asked for, with the noise of a count."""
        if self._budget is None or self._loop.time() < self._read_at + LOAD_S:
            return
        self._read_at, window_s = self._loop.time(), 2 * TAU_S
        pool, rate = self._pool(), self._rate()
        rows_E = self._rng.poisson(rate * window_s * pool.share_LE.ravel()) / window_s
        speed = {worker_id: 1 / times for worker_id, times in pool.slow.items() if 1 / times < SLOW}
        if rate > 0:
            self._load, self._balanced = Load(rows_E, window_s, speed), False

    async def _change(self, plan: Plan, records: Sequence[WorkerRecord]) -> bool:
        """Carries a change out; false when a worker that it needs is gone before its end."""
        wanted = gains(plan.before, plan.after)
        needs = {record.boot_id for record in records if record.worker_id in plan.after.worker_ids}
        most = max(map(len, wanted.values()), default=0)
        done_at = self._loop.time() + most * self._d.expert_bytes / self._d.timing.expert_bytes_s
        while self._loop.time() < done_at - 1e-9:
            await self._wait(min(self._look_s, done_at - self._loop.time()))
            self._changed.clear()
            if not needs <= {record.boot_id for record in await self._registry.alive()}:
                self._seen = None
                return True
        await asyncio.sleep(DRAIN_CALLS_S)
        moved = sum(map(len, wanted.values()))
        self.table = to_table(self.epoch + 1, "simulated", plan.after, records)
        self.loaded += moved
        self.tables += 1
        self.rebalances += plan.balances
        self._balanced = True
        if self._budget is not None:
            self._budget.spend(moved, self._loop.time())
        self._published(self.table, plan.after)
        return True

    @property
    def _look_s(self) -> float:
        """Seconds until it looks again at the latest."""
        return TICK_S if self._registry.has_suspects else LOOK_S

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
