"""The placement leader of a router: the order of `services/router/placement/leader.py` and `generation.py`, around the
real registry, terms, plans, tables and backoffs. One numerics class; no moves for load."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from caracal_proto.placement_pb2 import Table
from grpc import ChannelConnectivity
from simulation.oracle import EXPERTS
from simulation.placement_change import PlacementChange, load_given, planned, push, said

from services.membership.numerics_class import fits, is_of
from services.membership.pulse import Pulse
from services.membership.record import WorkerRecord
from services.router.placement.bare_redis import BareRedis
from services.router.placement.generations import served_beside
from services.router.placement.join_backoffs import JoinBackoffs
from services.router.placement.leader import LOOK_S, POLL_S, READ_S, RETRY_S, TICK_S
from services.router.placement.pushes import RETRY_S as PUSH_AGAIN_S
from services.router.placement.pushes import missed_by
from services.router.placement.tables import address_changed, chosen_class, misfit
from services.router.placement.terms import Terms
from services.router.placement.worker_client import PROBE_S
from services.router.placement.worker_registry import Known, WorkerRegistry

if TYPE_CHECKING:
    from simulation.router import Router

STATES = {True: ChannelConnectivity.READY, False: ChannelConnectivity.TRANSIENT_FAILURE}


async def _never(record: WorkerRecord) -> bool:
    raise AssertionError("probes are calls of the simulated network")


def _is_there(answer: Callable[[bool | None], None]) -> None:
    answer(True)


class Leader:
    """One router's; `leading` is what it believes."""

    def __init__(self, router: Router) -> None:
        self.router, self.world = router, router.world
        self.terms = (self.world.mutation.terms or Terms)()
        self.bare = (self.world.mutation.bare_redis or BareRedis)()
        self.registries = {role: WorkerRegistry(self._state, _never) for role in ("expert", "attention")}
        self.table: Table | None = None
        self.table_key = b""
        self.epoch_taken = False  # a worker has another table of the table's epoch
        self.numerics_class = ""
        self.leading = self._resigned = False
        self.backoffs = JoinBackoffs()
        self.digests: dict[int, int] = {}
        self.change: PlacementChange | None = None
        self.took: set[tuple[str, bool]] = set()
        self._push_at, self._pushing = 0.0, False
        self._may_begin = False
        self._changes, self._read_at = -1, 0.0
        self._polls = self._ticks = 0  # timers of older numbers are of no use
        self._woken = self._ticking = False

    @property
    def epoch(self) -> int:
        return self.table.epoch if self.table is not None else 0

    def begin(self) -> None:
        redis = self.world.redis
        redis.watchers[self.router.name] = self.router, self.router.runs, self._poll_soon
        self._poll()
        self._tick()

    # Redis

    def _poll_soon(self) -> None:
        """Redis says that a worker has changed: the pause between two looks is over."""
        if self._polls % 2:
            self._polls += 1
            self._poll()

    def _wait_for_change(self, seconds: float) -> None:
        self._polls += 1  # odd while it waits
        number = self._polls

        def over() -> None:
            if self._polls == number:
                self._poll_soon()

        self.router.after(seconds, over)

    def resign(self) -> None:
        """Lets another router lead at once; this one never leads again."""
        self._resigned, self.leading = True, False
        self._cancel_change()
        self.world.redis.ask(self.router, lambda redis: redis.resign(self.router.name), lambda _: None)

    def _poll(self) -> None:
        name = "" if self._resigned else self.router.name
        self.world.redis.ask(self.router, lambda redis: redis.pulse(name), self._take_pulse)

    def _take_pulse(self, pulse: Pulse | None) -> None:
        now = self.router.now
        if pulse is None:
            self.bare.unavailable()
            self._wait_for_change(RETRY_S)
            return
        if not self.world.mutation.hides_terms:
            self.terms.saw(pulse.term)
            self.bare.saw(pulse, now)
        self._may_begin = not self.bare.wait_left(now)
        if pulse.changes != self._changes or now >= self._read_at + READ_S or self.bare.bare:
            self._read_workers(pulse)
        else:
            self._read_table(pulse)

    def _read_workers(self, pulse: Pulse) -> None:
        def seen(records: tuple[list[WorkerRecord], list[WorkerRecord]] | None) -> None:
            if records is None:
                self.bare.unavailable()
                self._wait_for_change(RETRY_S)
                return
            for registry, found in zip(self.registries.values(), records, strict=True):
                registry.see(found)
            self.terms.see(record for found in records for record in found)
            self._changes, self._read_at = pulse.changes, self.router.now
            self._wake()
            self._read_table(pulse)

        self.world.redis.ask(self.router, lambda redis: (redis.records("expert"), redis.records("attention")), seen)

    def _read_table(self, pulse: Pulse) -> None:
        if pulse.epoch <= self.epoch:
            self._lead(pulse, pulse.epoch)
            return

        def read(found: Table | None) -> None:
            self._lead(pulse, pulse.epoch if self._take_stored(found, pulse.epoch) else 0)

        self.world.redis.ask(self.router, lambda redis: redis.state.table, read)

    def _take_stored(self, table: Table | None, stored: int) -> bool:
        if table is None or table.epoch < stored or misfit(table, 1, EXPERTS, self.terms.highest):
            return False
        if self.terms.believes(table, self.epoch):
            self._adopt(table)
        return True

    def _lead(self, pulse: Pulse, stored: int) -> None:
        """Begins to lead, or leads no more, as the lease says."""
        if pulse.leads and self._resigned:  # it has resigned since it asked
            self.world.redis.ask(self.router, lambda redis: redis.resign(self.router.name), lambda _: None)
            self._led(False, pulse, stored)
            return
        begins = self.terms.must_begin(
            leads=pulse.leads, leading=self.leading, own_epoch=self.epoch, numerics_class=self.numerics_class
        )
        if begins and self._may_begin:
            self._take_over(lambda: self._led(True, pulse, stored))
            return
        leads = pulse.leads and not begins
        if not leads and self.leading:
            self._cancel_change()
        self._led(leads, pulse, stored)

    def _led(self, leads: bool, pulse: Pulse, stored: int) -> None:
        if leads != self.leading:
            self._wake()
        self.leading = leads
        table, first = self.table, self.terms.began
        if leads and table is not None and self.epoch and stored < self.epoch:
            self.world.redis.ask(self.router, lambda redis: redis.write_table(table, pulse.epoch), lambda _: None)
        if leads and self._may_begin and pulse.term < first and not self.world.mutation.hides_terms:
            self.world.redis.ask(self.router, lambda redis: redis.write_term(first, pulse.term), lambda _: None)
        self._wait_for_change(min(POLL_S, self.bare.wait_left(self.router.now) or POLL_S))

    def _take_over(self, then: Callable[[], None]) -> None:
        """As the real one: a table that is older than the workers' counts as none."""
        self.leading = False
        self._cancel_change()
        self.digests, self.took = {}, set()

        def written(done: bool | None) -> None:
            if done:
                then()
            else:
                self._wait_for_change(RETRY_S)

        def begun() -> None:
            first, over = self.terms.begin(), self.terms.stored_term
            if self.world.mutation.hides_terms:
                then()
            else:
                self.world.redis.ask(self.router, lambda redis: redis.write_term(first, over), written)

        def alive() -> None:
            experts, attention = (registry.living() for registry in self.registries.values())
            main = self._class(experts, attention)
            own = [r for r in experts if r.numerics_class == main]
            said(self, own, [r for r in attention if is_of(r.numerics_class, main)], loaded)

        def loaded(table: Table | None, newest: int) -> None:
            if not self.world.mutation.believes_leases:
                self.terms.found(newest)
            newest = max(newest, self.terms.leased_of(self.numerics_class))
            if self.epoch < newest or self.table is None:
                self._adopt(table)
            begun()

        self._see_alive(alive)

    def _adopt(self, table: Table | None) -> None:
        self.table = table
        self.table_key = table.SerializeToString() if table is not None else b""
        self.numerics_class = (table.numerics_class if table is not None else "") or self.numerics_class
        self.took, self.epoch_taken = set(), False

    def publish(self, table: Table) -> None:
        """A change of this leader's has come to its end: the table is that now."""
        self.world.checks.published(self.router, table)
        self._adopt(table)

    # placement

    def _wake(self) -> None:
        """Ends the pause between two looks at the placement."""
        self._woken = True
        if not self._ticking:
            self._tick_after(0.0)

    def _tick_after(self, seconds: float) -> None:
        self._ticks += 1
        number = self._ticks
        self.router.after(seconds, lambda: self._tick() if self._ticks == number else None)

    def _tick(self) -> None:
        """Looks who is alive, and at the placement if it leads."""
        self._ticking, self._woken = True, False
        self._see_alive(self._placed)

    def _placed(self) -> None:
        experts, attention = (registry.living() for registry in self.registries.values())
        self.backoffs.keep_only([one.record.boot_id for r in self.registries.values() for one in r.tracked()])
        if self.leading:
            self._reconcile(experts, attention)
        busy = self.change is not None or any(registry.has_suspects for registry in self.registries.values())
        self._ticking = False
        self._tick_after(0.0 if self._woken else TICK_S if busy else LOOK_S)

    def _see_alive(self, then: Callable[[], None]) -> None:
        """Looks at connections, and probes workers without a lease: as `WorkerRegistry.alive`."""
        awaited: list[tuple[WorkerRegistry, Known]] = []
        for registry in self.registries.values():
            for known in registry.tracked():
                registry.check_connection(known, self.router.clock())
            awaited += [(registry, known) for known in registry.unleased()]
        left = len(awaited)

        def answered(registry: WorkerRegistry, known: Known, found: bool) -> None:
            nonlocal left
            registry.answered(known, found)
            left -= 1
            if not left:
                then()

        if not awaited:
            then()
        for registry, known in awaited:
            self._probe(known, partial(answered, registry, known))

    def _probe(self, known: Known, done: Callable[[bool], None]) -> None:
        worker = self.world.worker(known.record)
        if known.dead or self._state(known.record) is not ChannelConnectivity.READY:
            done(False)
        else:
            self.world.network.call(self.router, worker, _is_there, lambda found: done(bool(found)), PROBE_S)

    def _state(self, record: WorkerRecord) -> ChannelConnectivity:
        found = self.world.network.connected(self.router, self.world.worker(record), record.boot_id)
        return ChannelConnectivity.CONNECTING if found is None else STATES[found]

    def _class(self, experts: list[WorkerRecord], attention: list[WorkerRecord]) -> str:
        """The main class; where no attention worker could use it, one that routers serve beside it, as the only one."""
        main = (self.world.mutation.chosen_class or chosen_class)(self.table, experts, attention)
        if self.world.mutation.chosen_class or any(fits(record.numerics_class, main) for record in attention):
            return main
        return next(iter(served_beside(main, experts, attention)), main)

    def _reconcile(self, experts: list[WorkerRecord], attention: list[WorkerRecord]) -> None:
        main = self._class(experts, attention)
        if main and main != self.numerics_class:
            self.numerics_class, self.digests = main, {}  # golden rows are a class's own
        usable = [r for r in experts if r.numerics_class == self.numerics_class or self.world.mutation.mixes_classes]
        if self.change is not None:
            if not self.change.over and self.change.needs <= {r.boot_id for r in experts}:
                return
            self._cancel_change()
        if self.epoch_taken and self.table is not None:
            table = Table()
            table.CopyFrom(self.table)
            table.epoch = self.terms.next_epoch(self.epoch)
            self.publish(table)
        waiting = self.backoffs.waiting(self.router.now)
        plan = planned(self.table, self.table_key, usable, waiting)
        if plan.complete and (not self.epoch or plan.differs or address_changed(self.table, usable)):
            own = [r for r in attention if is_of(r.numerics_class, self.numerics_class) and not r.refused]
            self.change = PlacementChange(self, plan, usable, own)
            self.change.start()
        elif self.table is not None and self.epoch:
            self._push([*attention, *experts])

    def _push(self, records: list[WorkerRecord]) -> None:
        """Pushes the table to those that have not got it, unless a push still runs: as `Pushes`."""
        table = self.table
        assert table is not None
        missed = missed_by(self.took, records, table.numerics_class)
        if self._pushing or not missed or self.router.now < self._push_at:
            return
        self._pushing = True

        def pushed(took: set[tuple[str, bool]]) -> None:
            self._pushing = False
            for record in missed:
                lacks = record.role == "expert" and (record.boot_id, record.draining) not in took
                if lacks:
                    load_given(self, table, record)
            if self.table is table:
                self.took |= took
            self._push_at = self.router.now + (PUSH_AGAIN_S if len(took) < len(missed) else 0.0)

        push(self, table, missed, pushed)

    def _cancel_change(self) -> None:
        if self.change is not None:
            self.change.over = True
            self.change = None
