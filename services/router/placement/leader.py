"""The placement leader: sees which workers are alive, and keeps a table for each numerics class that can serve.

Every router runs this loop; one of them leads. Leadership is a hint in Redis. Two leaders at once do no harm because
of epochs: workers reject lower ones, and a new leader starts above all it can see. While Redis is unavailable the last
leader goes on with the workers it knows, and no worker can join.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace

import structlog

from services.membership.class_hint import ClassHint
from services.membership.numerics_class import fits, is_of
from services.membership.pulse import Pulse
from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable
from services.membership.shortage import CapacityShortage
from services.router.introductions import Introductions
from services.router.placement.balance_budget import BalanceBudget
from services.router.placement.balancer import LOAD_S
from services.router.placement.bare_redis import BareRedis
from services.router.placement.capacity import left_out
from services.router.placement.change import PublishedTable
from services.router.placement.generation import Generation, Shared
from services.router.placement.generations import hints_of, is_released, served_beside
from services.router.placement.join_backoffs import JoinBackoffs
from services.router.placement.loaded_experts import highest_epoch, table_of_loaded
from services.router.placement.metrics import PlacementMetrics
from services.router.placement.plan import Plan, Shape
from services.router.placement.shortage_reporter import ShortageReporter
from services.router.placement.tables import chosen_class, misfit
from services.router.placement.terms import Terms
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
        self._pulse: Pulse | None = None  # the last one
        self.changed = asyncio.Event()  # set when a worker, the table or who leads has changed; for who clears it
        self._changes, self._read_at = -1, 0.0  # as of the last read of the workers' leases
        self._terms, self._bare = Terms(), BareRedis()
        self._leading = self._redis_unavailable = self._resigned = False
        self._backoffs = JoinBackoffs()
        self.metrics = PlacementMetrics()
        self._budget, self._load_s = budget, load_s
        self._shared = Shared(
            membership=membership,
            workers=self._workers,
            shape=shape,
            backoffs=self._backoffs,
            metrics=self.metrics,
            next_epoch=self._next_epoch,
            leading=lambda: self._leading,
        )
        self._main = self._generation("", main=True)
        self._others: dict[str, Generation] = {}  # newer ones, oldest first
        self._hints: tuple[ClassHint, ...] = ()
        self._left_out = self._hinted = (
            False  # whether workers are left out, whether Redis has hints; for their changes
        )

    @property
    def leading(self) -> bool:
        return self._leading

    @property
    def epoch(self) -> int:
        """The epoch of the main table, as this router published or read it last; 0 before the first."""
        return self._main.epoch

    def _generation(self, numerics_class: str, main: bool = False) -> Generation:
        return Generation(self._shared, numerics_class, self._budget if main else None, self._load_s, main)

    def _next_epoch(self) -> int:
        return self._terms.next_epoch(self.epoch)

    async def run(self) -> None:
        """Leads whenever it can, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch_redis())
                group.create_task(self._run_placement())
                group.create_task(self._shortages.run())
        finally:
            for each in self._generations:
                each.close()
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
                await self._membership.wait_for_change(min(POLL_S, self._bare.wait_left(time.monotonic()) or POLL_S))
            except RedisUnavailable as error:
                if not self._redis_unavailable:
                    log.warning("redis is unavailable; the table stays, joins wait", error=str(error))
                self._redis_unavailable = True
                self._bare.unavailable()
                await asyncio.sleep(RETRY_S)

    async def _poll_redis(self) -> None:
        pulse = await self._membership.pulse("" if self._resigned else self._holder, LEADER_LEASE_MS)
        if pulse != self._pulse:
            self._pulse = pulse
            self.changed.set()
        leads, stored = pulse.leads, pulse.epoch
        self._terms.saw(pulse.term)
        self._bare.saw(pulse, time.monotonic())
        may_begin = not self._bare.wait_left(time.monotonic())  # by the leases that are read from here on
        await self._see_workers(pulse.changes)
        if self._introductions.pending and time.monotonic() < self._began + FIRST_LOOK_S:
            return  # who is there, and how far their epochs are, decides what a new router believes and begins with
        if stored > self.epoch and not await self._take_stored(stored):
            stored = 0  # what does not fit counts as nothing, and is written over
        if leads and self._resigned:  # `resign` was called during the awaits above
            await self._membership.resign(self._holder)
            leads = False
        main = self._main.numerics_class
        if self._terms.must_begin(leads=leads, leading=self._leading, own_epoch=self.epoch, numerics_class=main):
            leads = may_begin and await self._take_over()
        if not leads and self._leading:
            self._step_down("workers are beyond it" if pulse.leads else "another router leads the placement")
        if leads != self._leading:
            self._workers.wake()
        self._leading = leads
        if leads and self._main.table and self.epoch and stored < self.epoch:
            await self._membership.write_table(self._main.table, over=pulse.epoch)
        if leads and may_begin and pulse.term < self._terms.began:  # Redis has lost it
            await self._membership.write_term(self._terms.began, over=pulse.term)
        if leads:
            await self._write_hints()

    def _step_down(self, why: str) -> None:
        log.warning("this router leads the placement no more", why=why)
        for each in self._generations:
            each.cancel_change()
        self._shortages.forget()
        self.metrics.balancedness, self.metrics.quarantined = math.nan, 0  # the next leader's is what counts

    async def _take_stored(self, stored: int) -> bool:
        """Takes the table in Redis if it is newer than ours; returns whether it can be one of this cluster."""
        table = await self._membership.read_table()
        if table is None or table.epoch < stored:
            return False
        if why := misfit(table, self._layers, self._experts, self._terms.highest):
            self._membership.bad.note("table", "placement", why)
            return False
        if self._terms.believes(table, self.epoch):
            self._main.publish(PublishedTable(table))
        return True

    async def _write_hints(self) -> None:
        """Renews what others are to know while there are several classes."""
        if self._hints:
            await self._membership.generations.write(self._hints)
            self._hinted = True
        elif self._hinted:
            await self._membership.generations.withdraw()
            self._hinted = False

    async def _see_workers(self, changes: int) -> None:
        """Reads the workers' leases when one has changed, and every READ_S."""
        unchanged = changes == self._changes and not self._introductions.pending and not self._bare.bare
        if unchanged and time.monotonic() < self._read_at + READ_S:
            return
        seen = {
            role: await self._introductions.admitted(role, await self._membership.workers(role), self._terms.highest)
            for role in self.registries
        }
        for role, records in seen.items():
            self.registries[role].see(records)
        self._workers.wake()
        self._terms.see(record for records in seen.values() for record in records)
        self._changes, self._read_at = changes, time.monotonic()

    async def _take_over(self) -> bool:
        """Starts to lead, unless another router has begun the same term. Without a table in Redis, it begins with one
        made from what the workers have loaded.

        One that is older than the workers' counts as none, for they would reject it: Redis has lost what was written.
        """
        self._leading = False  # nothing is placed by what it believed before
        for each in self._generations:
            each.forget()
        self._others, self._hints = {}, ()
        experts, attention = [await registry.alive(time.monotonic()) for registry in self.registries.values()]
        main = chosen_class(self._main.table, experts, attention)
        # Leases are a second old, and Redis may have lost them: what workers say themselves is what they go by.
        table, newest = await table_of_loaded(
            self._workers, [r for r in experts if r.numerics_class == main], self._shape
        )
        newest = max(
            newest, await highest_epoch(self._workers, [r for r in attention if is_of(r.numerics_class, main)])
        )
        self._terms.found(newest)
        newest = max(newest, self._terms.leased_of(self._main.numerics_class))
        if self.epoch and self.epoch < newest:
            log.warning("workers have a newer table than redis had", epoch=self.epoch, newest=newest)
        if self.epoch < newest or self._main.table is None:
            self._main.published = PublishedTable(table) if table else None
        first = self._terms.begin()
        if not await self._membership.write_term(first, over=self._terms.stored_term):
            log.info("another router has begun the next term", term=first)
            return False
        log.info("this router leads the placement", holder=self._holder, next_epoch=first)
        return True

    async def _loaded(self, records: list[WorkerRecord]) -> PublishedTable | None:
        """What these workers, of one class, have loaded, as a table of epoch 0; None when they have nothing."""
        table, _ = await table_of_loaded(self._workers, records, self._shape)
        return PublishedTable(table) if table else None

    async def _run_placement(self) -> None:
        while True:
            experts, attention = [await registry.alive(time.monotonic()) for registry in self.registries.values()]
            known = [r for registry in self.registries.values() for r in registry.known()]
            await self._workers.keep_only(known)
            self._backoffs.keep_only([r.boot_id for r in known])
            if self._leading:
                await self._reconcile(experts, attention)
                for each in self._generations:
                    each.read_load(experts)
            has_suspects = any(registry.has_suspects for registry in self.registries.values())
            busy = has_suspects or any(each.changing for each in self._generations)
            await self._workers.wait_for_change(TICK_S if busy else LOOK_S)

    async def _reconcile(self, experts: list[WorkerRecord], attention: list[WorkerRecord]) -> None:
        self.metrics.quarantined = sum(bool(one.quarantined) for one in [*experts, *attention])
        await self._choose_generations(experts, attention)
        states = [each.state(experts, attention) for each in self._generations]
        for each in self._generations:
            others = [state for state in states if state.numerics_class != each.numerics_class]
            own = next(state for state in states if state.numerics_class == each.numerics_class)
            plan = await each.reconcile(list(own.experts), experts, attention, is_released(own, others))
            if plan is not None and each.main:
                self._note_shortage(plan, list(own.experts), [*attention, *experts])
        self._hints = hints_of(
            [each.state(experts, attention) for each in self._generations],
            experts,
            attention,
            self._layers * self._experts,
        )

    @property
    def _generations(self) -> list[Generation]:
        """Oldest first."""
        return [self._main, *self._others.values()]

    async def _choose_generations(self, experts: list[WorkerRecord], attention: list[WorkerRecord]) -> None:
        """Lets classes come that can serve beside the main one, and go that have no expert worker left."""
        main = chosen_class(self._main.table, experts, attention)
        if main and main != self._main.numerics_class:
            if (promoted := self._others.pop(main, None)) is not None:
                log.info("a numerics class has replaced another", old=self._main.numerics_class, new=main)
                self._main.close()
                self._main = promoted
                promoted.promote(self._budget)
            else:
                self._main.numerics_class = main
        there = {r.numerics_class for r in experts}
        for name in [name for name in self._others if name not in there]:
            self._others.pop(name).close()
        for name in served_beside(main, experts, attention) if main else ():
            if name not in self._others:
                log.info("a second numerics class is served", numerics_class=name)
                self._others[name] = found = self._generation(name)
                found.published = await self._loaded([r for r in experts if r.numerics_class == name])

    def _excluded(self, workers: list[WorkerRecord]) -> str:
        """Names the workers that serve in no class; empty when there is none."""
        main = self._main.numerics_class
        rest = [r for r in workers if not any(is_of(r.numerics_class, other) for other in self._others)]
        others = [r.worker_id for r in rest if not r.refused and not fits(r.numerics_class, main)]
        if others and not self._left_out:
            log.warning("workers of another numerics class are left out", workers=others, chosen=main)
        self._left_out = bool(others)
        return left_out(rest, main)

    def _note_shortage(self, plan: Plan, usable: list[WorkerRecord], workers: list[WorkerRecord]) -> None:
        lacking, excluded = plan.lacking, self._excluded(workers)
        wrong = {one.worker_id: one.quarantined for one in workers if one.quarantined}
        more = self._backoffs.reasons(usable) + (f"; {excluded}" if excluded else "")
        if lacking is not None:
            lacking = replace(lacking, reason=lacking.reason + more, lost=plan.unplaced, wrong=wrong)
        elif more:
            lacking = CapacityShortage(more.removeprefix("; "), wrong=wrong)
        self._shortages.note(lacking, plan.unplaced, starting=not self.epoch and not self._backoffs)
