"""The placement of one numerics class: its table, and the change under way. Several live while one replaces another."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from caracal_proto.placement_pb2 import Table

from services.membership.numerics_class import is_of
from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable
from services.router.placement.balance_budget import BalanceBudget
from services.router.placement.balancer import Balancer
from services.router.placement.change import JoinFailed, PublishedTable, prepare, publish
from services.router.placement.digests import Digests
from services.router.placement.generations import ClassState
from services.router.placement.join_backoffs import JoinBackoffs
from services.router.placement.metrics import PlacementMetrics
from services.router.placement.plan import Plan, Shape, inputs_of, make_plan
from services.router.placement.pushes import Pushes
from services.router.placement.table_view import TableView
from services.router.placement.tables import address_changed, still_there, to_table
from services.router.placement.worker_client import Workers

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the generations of one leader have in common. `next_epoch` gives each epoch once."""

    membership: Membership
    workers: Workers
    shape: Shape
    backoffs: JoinBackoffs
    metrics: PlacementMetrics
    next_epoch: Callable[[], int]
    leading: Callable[[], bool]


class Generation:
    """One class's placement. Its table is written to Redis while it is the `main` one, the oldest."""

    def __init__(
        self, shared: Shared, numerics_class: str, budget: BalanceBudget | None, load_s: float, main: bool
    ) -> None:
        self._shared, self.numerics_class, self.main = shared, numerics_class, main
        self.published: PublishedTable | None = None
        self.plan: Plan | None = None  # the last one
        self.balancer = Balancer(shared.workers, shared.shape, budget, load_s)
        self._digests: Digests | None = None
        self._pushes = Pushes(shared.workers)
        self._change: asyncio.Task[None] | None = None
        self._change_needs: frozenset[str] = frozenset()  # boot ids without which the change cannot end

    @property
    def table(self) -> Table | None:
        return self.published.table if self.published else None

    @property
    def epoch(self) -> int:
        """0 before the first table."""
        return self.table.epoch if self.table else 0

    @property
    def changing(self) -> bool:
        return self._change is not None

    def publish(self, published: PublishedTable) -> None:
        self.published = published
        self.numerics_class = published.table.numerics_class or self.numerics_class
        self._pushes.forget()

    def promote(self, budget: BalanceBudget | None) -> None:
        """Makes it the main generation, whose table Redis has, under an epoch above the one there."""
        self.cancel_change()
        self.main = True
        self.balancer.allow(budget)
        self._give_next_epoch()

    def _give_next_epoch(self) -> None:
        """Publishes the table that it has under the next epoch."""
        if self.table is not None:
            table = Table()
            table.CopyFrom(self.table)
            table.epoch = self._shared.next_epoch()
            self.publish(PublishedTable(table))

    def forget(self) -> None:
        """Another router has led meanwhile."""
        self.cancel_change()
        self._digests, self.plan = None, None
        self.balancer.forget()
        self._pushes.forget()

    def state(self, experts: list[WorkerRecord], attention: list[WorkerRecord]) -> ClassState:
        """What it has of these workers, which are all that are alive."""
        plan = self.plan
        return ClassState(
            numerics_class=self.numerics_class,
            experts=tuple(r for r in experts if r.numerics_class == self.numerics_class),
            attention=tuple(r for r in attention if is_of(r.numerics_class, self.numerics_class) and not r.refused),
            has_table=self.epoch > 0,
            complete=self.epoch > 0 and plan is not None and not plan.unplaced,
            possible=plan is not None and plan.complete,
        )

    async def reconcile(
        self, usable: list[WorkerRecord], experts: list[WorkerRecord], attention: list[WorkerRecord], released: bool
    ) -> Plan | None:
        """Begins what is to change; returns the plan, or None while a change runs or when something came in between.

        `usable`: its expert workers. `released`: nobody needs its experts, so those that drain may go.
        """
        if self._change is not None:
            if not self._change.done() and self._still_wanted(experts, usable):
                return None
            self.cancel_change()
        if self.published is not None and self.published.epoch_taken:
            log.warning("a worker has another table of this epoch; it gets the next one", epoch=self.epoch)
            self._give_next_epoch()
        plan = await self._plan_for(usable)
        if plan.table is not self.table or not self._shared.leading():
            return None  # something has changed meanwhile; the next round sees it
        after, go, differs = plan.after, plan.complete, plan.differs
        if released:  # nothing is loaded for nobody
            after, go = _of_those_that_stay(self.table, usable) or plan.before, self.epoch > 0
            differs = after != plan.before
        differs = differs or address_changed(self.table, usable)
        if go and (not self.epoch or differs):
            self._change_needs = frozenset(r.boot_id for r in usable if r.worker_id in after.worker_ids)
            self._change = asyncio.create_task(self._carry_out(plan.before, after, usable, attention, experts))
        elif self.published is not None and self.epoch:
            self._pushes.begin(self.published, [*attention, *experts])
        return plan

    def read_load(self, experts: list[WorkerRecord]) -> None:
        """Reads the load when it is due and nothing else is going on."""
        if self._change is None and self.table is not None and self.epoch and self.balancer.is_due:
            boot_ids = {worker.boot_id for worker in self.table.workers}
            self.balancer.begin_read([r for r in experts if r.boot_id in boot_ids])

    def cancel_change(self) -> None:
        if self._change is not None:
            if not self._change.done():
                self._change.cancel()
            elif not self._change.cancelled():
                self._change.result()
            self._change = None

    def close(self) -> None:
        self.cancel_change()
        self._pushes.forget()
        self.balancer.forget()

    async def _plan_for(self, usable: list[WorkerRecord]) -> Plan:
        """Returns what the policy makes of these workers: computed on a thread, and only when something has changed."""
        shared, table, waiting = self._shared, self.table, self._shared.backoffs.waiting(time.monotonic())
        inputs = inputs_of(usable, waiting)
        last, load = self.plan, self.balancer.load
        if last is None or last.table is not table or last.inputs != inputs or last.load is not load:
            moves = self.balancer.moves()
            plan = await asyncio.to_thread(make_plan, shared.shape, table, usable, waiting, inputs, load, moves)
            self.plan = plan
            if self.main:
                shared.metrics.balancedness = plan.balancedness
            return plan
        return last

    def _still_wanted(self, experts: list[WorkerRecord], usable: list[WorkerRecord]) -> bool:
        """Whether the change under way can end; one that is only for balance makes way for any other."""
        if not self._change_needs <= {r.boot_id for r in experts}:
            return False
        plan, waiting = self.plan, self._shared.backoffs.waiting(time.monotonic())
        return plan is None or not plan.balances or plan.inputs == inputs_of(usable, waiting)

    async def _carry_out(
        self,
        before: TableView,
        after: TableView,
        usable: list[WorkerRecord],
        attention: list[WorkerRecord],
        experts: list[WorkerRecord],
    ) -> None:
        shared, epoch = self._shared, self._shared.next_epoch()
        records = {r.worker_id: r for r in usable}
        digests = await self._known_digests()
        try:
            moved = await prepare(shared.workers, epoch, before, after, records, digests)
        except JoinFailed as error:
            record, reason = records[error.worker_id], str(error)
            for_s = shared.backoffs.fail(record, reason, time.monotonic())
            log.warning("join failed, nothing has changed", worker_id=record.worker_id, reason=reason, backoff_s=for_s)
            return
        table = await asyncio.to_thread(to_table, epoch, self.numerics_class, after, usable)
        published = PublishedTable(table)
        self.publish(published)
        shared.backoffs.joined([r for r in usable if r.worker_id in after.worker_ids])
        self.balancer.table_changed(moved)
        shared.metrics.tables += 1
        shared.metrics.loaded += moved
        for_load = bool(self.plan and self.plan.balances)
        log.info(
            "table published",
            epoch=epoch,
            experts=after.counts,
            newly_loaded=moved,
            for_load=for_load,
            numerics_class=self.numerics_class,
        )
        await self._store(table, digests)
        own = [r for r in attention if is_of(r.numerics_class, self.numerics_class)]
        self._pushes.took(await publish(shared.workers, published, own, usable))

    async def _store(self, table: Table, digests: Digests) -> None:
        membership = self._shared.membership
        try:
            if self.main:
                await membership.write_table(table)
            if learnt := digests.to_store():
                await membership.write_digests(self.numerics_class, learnt)
        except RedisUnavailable:
            log.warning("the table could not be written to redis; it is pushed to workers anyway", epoch=table.epoch)

    async def _known_digests(self) -> Digests:
        """Returns the golden digests known of the class: in this process, else in Redis."""
        if self._digests is None or self._digests.numerics_class != self.numerics_class:
            shape = self._shared.shape
            self._digests = digests = Digests(self.numerics_class, shape.layers, shape.experts)
            with contextlib.suppress(RedisUnavailable):  # then workers that have loaded experts are asked
                digests.take_stored(await self._shared.membership.digests(self.numerics_class))
        return self._digests


def _of_those_that_stay(table: Table | None, usable: list[WorkerRecord]) -> TableView | None:
    """The part of a table that is on workers which stay."""
    return still_there(table, {r.worker_id: r for r in usable if not r.leaves}) if table is not None else None
