"""The placement leader: sees which workers are alive, asks the policy for a table, and carries the change out.

Every router runs this loop; one of them leads. Leadership is a hint in Redis. Two leaders at once do no harm because
of epochs: workers reject lower ones, and a new leader starts above all it can see. While Redis is unavailable the last
leader goes on with the workers it knows, and no worker can join.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from dataclasses import replace

import structlog
from caracal_proto.placement_pb2 import Table

from services.membership.record import WorkerRecord
from services.membership.redis import Membership, Pulse, RedisUnavailable
from services.membership.shortage import CapacityShortage
from services.router.introductions import Introductions
from services.router.placement.balance_budget import BalanceBudget
from services.router.placement.balancer import LOAD_S, Balancer
from services.router.placement.capacity import left_out
from services.router.placement.change import JoinFailed, PublishedTable, prepare, publish
from services.router.placement.digests import Digests
from services.router.placement.join_backoffs import JoinBackoffs
from services.router.placement.loaded_experts import table_of_loaded
from services.router.placement.metrics import PlacementMetrics
from services.router.placement.plan import Plan, Shape, inputs_of, make_plan
from services.router.placement.pushes import Pushes
from services.router.placement.shortage_reporter import ShortageReporter
from services.router.placement.table_view import TableView
from services.router.placement.tables import address_changed, chosen_class, misfit, next_term, to_table
from services.router.placement.worker_client import Workers
from services.router.placement.worker_registry import WorkerRegistry
from services.security.channels import PLAIN, Dialer

log = structlog.get_logger(__name__)

POLL_S, RETRY_S = 0.5, 0.2  # between two looks at Redis while nothing changes, and while it is unavailable
READ_S = 2.0  # between two readings of the workers' leases while none says that it has changed
LOOK_S = 1.0  # between two looks at the placement while nothing has changed
TICK_S = 0.05
FIRST_LOOK_S = 2.0  # that a new router waits for the workers' answers before it may lead
LEADER_LEASE_MS = 2000


class PlacementLeader:
    """Keeps the placement table while this router leads. `holder` is the router's name in the leader's lease."""

    def __init__(
        self,
        membership: Membership,
        holder: str,
        shape: Shape,
        shortages: ShortageReporter | None = None,
        budget: BalanceBudget | None = None,
        load_s: float = LOAD_S,
        dialer: Dialer = PLAIN,
        introductions: Introductions | None = None,
    ) -> None:
        """Without a `budget`, no expert moves for its load, which is read every `load_s`."""
        self._introductions = introductions or Introductions(dialer, membership.bad)
        self._began = time.monotonic()
        self._membership, self._holder = membership, holder
        self._shape, self._layers, self._experts = shape, shape.layers, shape.experts
        self._workers = Workers(dialer)
        self._shortages = shortages or ShortageReporter(membership)
        self.registries = {
            role: WorkerRegistry(self._workers.state, self._workers.probe) for role in ("expert", "attention")
        }
        self._published: PublishedTable | None = None
        self._pulse: Pulse | None = None  # the last one
        self.changed = asyncio.Event()  # set when a worker, the table or who leads has changed; for who clears it
        self._changes, self._read_at = -1, 0.0  # as of the last read of the workers' leases
        self._digests: Digests | None = None
        # epochs: the highest anywhere, and in the leases read last; the one before the first that it may give
        self._highest = self._leased = self._began_after = 0
        self._leading = self._redis_unavailable = self._resigned = False
        self._pushes, self._backoffs = Pushes(self._workers), JoinBackoffs()
        self.metrics = PlacementMetrics()
        self._balancer = Balancer(self._workers, shape, budget, load_s)
        self._change: asyncio.Task[None] | None = None
        self._change_needs: frozenset[str] = frozenset()  # boot ids without which the change cannot end
        self._plan: Plan | None = None  # the last one
        self._left_out = False  # whether workers of another numerics class are left out; logged when it becomes true

    @property
    def leading(self) -> bool:
        return self._leading

    @property
    def _table(self) -> Table | None:
        return self._published.table if self._published else None

    @property
    def epoch(self) -> int:
        """The epoch of the table that this router published or read last; 0 before the first."""
        return self._table.epoch if self._table else 0

    async def run(self) -> None:
        """Leads whenever it can, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch_redis())
                group.create_task(self._run_placement())
                group.create_task(self._shortages.run())
        finally:
            self._cancel_change()
            self._pushes.forget()
            self._balancer.forget()
            await self._introductions.close()
            await self._workers.close()

    async def resign(self) -> None:
        """Lets another router lead at once; this one never leads again."""
        self._resigned, self._leading = True, False
        self._shortages.forget()
        try:
            await self._membership.resign(self._holder)
        except RedisUnavailable:
            return

    async def _watch_redis(self) -> None:
        while True:
            try:
                await self._poll_redis()
                if self._redis_unavailable:
                    log.info("redis is available again; workers may join")
                self._redis_unavailable = False
                await self._membership.wait_for_change(POLL_S)
            except RedisUnavailable as error:
                if not self._redis_unavailable:
                    log.warning("redis is unavailable; the table stays, joins wait", error=str(error))
                self._redis_unavailable = True
                await asyncio.sleep(RETRY_S)

    async def _poll_redis(self) -> None:
        pulse = await self._membership.pulse("" if self._resigned else self._holder, LEADER_LEASE_MS)
        if pulse != self._pulse:
            self._pulse = pulse
            self.changed.set()
        leads, stored = pulse.leads, pulse.epoch
        await self._see_workers(pulse.changes)
        if self._introductions.pending and time.monotonic() < self._began + FIRST_LOOK_S:
            return  # who is there, and how far their epochs are, decides what a new router believes and begins with
        if stored > self.epoch and not await self._take_stored(stored):
            stored = 0  # what does not fit counts as nothing, and is written over
        if leads and self._resigned:  # `resign` was called during the awaits above
            await self._membership.resign(self._holder)
            leads = False
        # One without a table may have begun before it knew a worker, whose epoch is above its own first one then.
        if leads and (not self._leading or self._leased > (self.epoch or self._began_after)):
            await self._take_over()
        elif not leads and self._leading:
            log.warning("another router leads the placement")
            self._cancel_change()
            self._shortages.forget()
            self.metrics.balancedness = math.nan  # the other router's is what counts
        if leads != self._leading:
            self._workers.wake()
        self._leading = leads
        if leads and self._table and self.epoch and stored < self.epoch:
            await self._membership.write_table(self._table)

    async def _take_stored(self, stored: int) -> bool:
        """Takes the table in Redis if it is newer than ours; returns whether it can be one of this cluster."""
        table = await self._membership.read_table()
        if table is None or table.epoch < stored:
            return False
        if why := misfit(table, self._layers, self._experts, self._highest):
            self._membership.bad.note("table", "placement", why)
            return False
        self._highest = max(self._highest, table.epoch)
        if table.epoch > self.epoch and table.epoch >= self._leased:
            self._publish(PublishedTable(table))
        return True

    async def _see_workers(self, changes: int) -> None:
        """Reads the workers' leases when one has changed, and every READ_S."""
        unchanged = changes == self._changes and not self._introductions.pending
        if unchanged and time.monotonic() < self._read_at + READ_S:
            return
        seen = {
            role: await self._introductions.admitted(role, await self._membership.workers(role), self._highest)
            for role in self.registries
        }
        for role, records in seen.items():
            self.registries[role].see(records)
        self._workers.wake()
        self._leased = max((r.epoch for records in seen.values() for r in records), default=0)
        self._highest = max(self._highest, self._leased)
        self._changes, self._read_at = changes, time.monotonic()

    async def _take_over(self) -> None:
        """Starts to lead. Without a table in Redis, it begins with one made from what the workers have loaded.

        One that is older than the workers' counts as none, for they would reject it: Redis has lost what was written.
        """
        self._leading = False  # nothing is placed by what it believed before
        self._cancel_change()
        self._digests = None
        self._balancer.forget()
        self._pushes.forget()
        if self.epoch and self.epoch < self._leased:
            log.warning("workers have a newer table than redis had", epoch=self.epoch, newest=self._leased)
        if self.epoch < self._leased or self._table is None:
            records = self._compatible(await self.registries["expert"].alive(time.monotonic()), [])
            table = await table_of_loaded(self._workers, records, self._shape)
            self._published = PublishedTable(table) if table else None
        self._highest = self._began_after = next_term(self._highest) - 1
        log.info("this router leads the placement", holder=self._holder, next_epoch=self._highest + 1)

    async def _run_placement(self) -> None:
        while True:
            experts, attention = [await registry.alive(time.monotonic()) for registry in self.registries.values()]
            known = [r for registry in self.registries.values() for r in registry.known()]
            await self._workers.keep_only(known)
            self._backoffs.keep_only([r.boot_id for r in known])
            if self._leading:
                await self._reconcile(experts, attention)
                self._read_load(experts)
            has_suspects = any(registry.has_suspects for registry in self.registries.values())
            await self._workers.wait_for_change(TICK_S if has_suspects or self._change is not None else LOOK_S)

    async def _reconcile(self, experts: list[WorkerRecord], attention: list[WorkerRecord]) -> None:
        usable = self._compatible(experts, attention)
        if self._change is not None:
            if not self._change.done() and self._still_wanted(experts, usable):
                return
            self._cancel_change()
        excluded = left_out((*attention, *experts), usable[0].numerics_class if usable else "")
        plan = await self._plan_for(usable)
        if plan.table is not self._table or not self._leading:
            return  # something has changed meanwhile; the next round sees it
        self._note_shortage(plan, usable, excluded)
        after = plan.after
        if plan.complete and (not self.epoch or plan.differs or address_changed(self._table, usable)):
            self._change_needs = frozenset(r.boot_id for r in usable if r.worker_id in after.worker_ids)
            self._change = asyncio.create_task(self._carry_out(plan.before, after, usable, attention, experts))
        else:
            self._push_missed(experts, attention)

    async def _plan_for(self, usable: list[WorkerRecord]) -> Plan:
        """Returns what the policy makes of these workers: computed on a thread, and only when something has changed."""
        table, waiting = self._table, self._backoffs.waiting(time.monotonic())
        inputs = inputs_of(usable, waiting)
        last, load = self._plan, self._balancer.load
        if last is None or last.table is not table or last.inputs != inputs or last.load is not load:
            moves = self._balancer.moves()
            self._plan = await asyncio.to_thread(make_plan, self._shape, table, usable, waiting, inputs, load, moves)
            self.metrics.balancedness = self._plan.balancedness
            return self._plan
        return last

    def _still_wanted(self, experts: list[WorkerRecord], usable: list[WorkerRecord]) -> bool:
        """Whether the change under way can end; one that is only for balance makes way for any other."""
        if not self._change_needs <= {r.boot_id for r in experts}:
            return False
        plan, waiting = self._plan, self._backoffs.waiting(time.monotonic())
        return plan is None or not plan.balances or plan.inputs == inputs_of(usable, waiting)

    def _read_load(self, experts: list[WorkerRecord]) -> None:
        """Reads the load when it is due and nothing else is going on."""
        if self._change is None and self._table is not None and self._table.epoch and self._balancer.is_due:
            boot_ids = {worker.boot_id for worker in self._table.workers}
            self._balancer.begin_read([r for r in experts if r.boot_id in boot_ids])

    def _note_shortage(self, plan: Plan, usable: list[WorkerRecord], excluded: str) -> None:
        lacking = plan.lacking
        more = self._backoffs.reasons(usable) + (f"; {excluded}" if excluded else "")
        if lacking is not None:
            lacking = replace(lacking, reason=lacking.reason + more, lost=plan.unplaced)
        elif more:
            lacking = CapacityShortage(more.removeprefix("; "))
        self._shortages.note(lacking, plan.unplaced, starting=not self.epoch and not self._backoffs)

    def _compatible(self, experts: list[WorkerRecord], attention: list[WorkerRecord]) -> list[WorkerRecord]:
        """Returns the expert workers of one numerics class, for a table has only one."""
        chosen = chosen_class(self._table, experts, attention)
        others = [r.worker_id for r in experts if r.numerics_class != chosen]
        if others and not self._left_out:
            log.warning("workers of another numerics class are left out", workers=others, chosen=chosen)
        self._left_out = bool(others)
        return [r for r in experts if r.numerics_class == chosen]

    async def _carry_out(
        self,
        before: TableView,
        after: TableView,
        usable: list[WorkerRecord],
        attention: list[WorkerRecord],
        experts: list[WorkerRecord],
    ) -> None:
        epoch = max(self._highest, self.epoch) + 1
        numerics_class = usable[0].numerics_class
        records = {r.worker_id: r for r in usable}
        digests = await self._digests_of(numerics_class)
        try:
            moved = await prepare(self._workers, epoch, before, after, records, digests)
        except JoinFailed as error:
            record, reason = records[error.worker_id], str(error)
            for_s = self._backoffs.fail(record, reason, time.monotonic())
            log.warning("join failed, nothing has changed", worker_id=record.worker_id, reason=reason, backoff_s=for_s)
            return
        self._highest = epoch
        table = await asyncio.to_thread(to_table, epoch, numerics_class, after, usable)
        published = PublishedTable(table)
        self._publish(published)
        self._backoffs.joined([r for r in usable if r.worker_id in after.worker_ids])
        self._balancer.table_changed(moved)
        self.metrics.tables += 1
        self.metrics.loaded += moved
        for_load = bool(self._plan and self._plan.balances)
        log.info("table published", epoch=epoch, experts=after.counts, newly_loaded=moved, for_load=for_load)
        try:
            await self._membership.write_table(table)
            if learnt := digests.to_store():
                await self._membership.write_digests(numerics_class, learnt)
        except RedisUnavailable:
            log.warning("the table could not be written to redis; it is pushed to workers anyway", epoch=epoch)
        self._pushes.took(await publish(self._workers, published, attention, experts))

    def _publish(self, published: PublishedTable) -> None:
        self._published = published
        self._pushes.forget()

    async def _digests_of(self, numerics_class: str) -> Digests:
        """Returns the golden digests known of a class: in this process, else in Redis."""
        if self._digests is None or self._digests.numerics_class != numerics_class:
            self._digests = digests = Digests(numerics_class, self._layers, self._experts)
            with contextlib.suppress(RedisUnavailable):  # then workers that have loaded experts are asked
                digests.take_stored(await self._membership.digests(numerics_class))
        return self._digests

    def _push_missed(self, experts: list[WorkerRecord], attention: list[WorkerRecord]) -> None:
        if self._published is not None and self.epoch:
            self._pushes.begin(self._published, [*attention, *experts])

    def _cancel_change(self) -> None:
        if self._change is not None:
            if not self._change.done():
                self._change.cancel()
            elif not self._change.cancelled():
                self._change.result()
            self._change = None
