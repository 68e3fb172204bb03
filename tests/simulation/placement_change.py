"""One change of a leader's table, in two phases: the order of `services/router/placement/change.py`, with the real
plan, gains and tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from caracal_proto.placement_pb2 import Table
from simulation.expert_worker import ExpertWorker, Rejected
from simulation.oracle import EXPERTS
from simulation.worker import Described, Worker

from services.membership.record import WorkerRecord
from services.router.placement.change import DRAIN_CALLS_S, gains
from services.router.placement.plan import Inputs, Plan, Shape, inputs_of, make_plan
from services.router.placement.table_view import TableView
from services.router.placement.tables import given_to, to_table
from services.router.placement.worker_client import QUICK_S

if TYPE_CHECKING:
    from simulation.leader import Leader

SHAPE = Shape(layers=1, experts=EXPERTS, replicas=0)
LOAD_TIMEOUT_S = 60.0
MOST_PLANS = 20_000

_plans: dict[tuple[bytes, Inputs], Plan] = {}  # it is a pure function, and most schedules ask it the same
Took = set[tuple[str, bool]]


def planned(table: Table | None, key: bytes, usable: Sequence[WorkerRecord], waiting: Collection[str]) -> Plan:
    """What the policy makes of these workers. `key`: the table's bytes."""
    inputs = inputs_of(usable, waiting)
    plan = _plans.get((key, inputs))
    if plan is None:
        if len(_plans) >= MOST_PLANS:
            _plans.clear()
        plan = _plans[key, inputs] = make_plan(SHAPE, table, usable, waiting, inputs)
    return plan


def said(
    leader: Leader,
    experts: Sequence[WorkerRecord],
    attention: Sequence[WorkerRecord],
    done: Callable[[Table | None, int], None],
) -> None:
    """As `table_of_loaded` and `highest_epoch`: what these expert workers have loaded, as a table of epoch 0, and the
    highest epoch that any worker has."""
    answers: dict[str, Described | None] = {}
    asked = [*experts, *attention]

    def answered(record: WorkerRecord, found: Described | None) -> None:
        answers[record.boot_id] = found if found is not None and found.boot_id == record.boot_id else None
        if len(answers) == len(asked):
            end()

    def end() -> None:
        newest = max((one.epoch for one in answers.values() if one is not None), default=0)
        loaded = {
            r.worker_id: np.array(one.loaded, np.int64) for r in experts if (one := answers[r.boot_id]) is not None
        }
        table = None
        if any(map(len, loaded.values())):
            view = TableView.of_loaded(loaded, SHAPE.layers, SHAPE.experts)
            table = to_table(0, experts[0].numerics_class, view, experts)
        done(table, newest)

    if not asked:
        end()
    for record in asked:
        worker = leader.world.worker(record)
        leader.world.network.call(leader.router, worker, partial(_describe, worker), partial(answered, record), QUICK_S)


def _describe(worker: Worker, answer: Callable[[Described | None], None]) -> None:
    answer(worker.describe())


def push(leader: Leader, table: Table, records: Sequence[WorkerRecord], done: Callable[[Took], None]) -> None:
    """Pushes a table to workers of either role; gives (boot id, draining) of each that took it."""
    took: Took = set()
    left = len(records)

    def pushed(record: WorkerRecord, reply: int | Rejected | None) -> None:
        nonlocal left
        left -= 1
        if reply is not None and not isinstance(reply, Rejected):
            took.add((record.boot_id, record.draining))
        elif reply is not None and reply.epoch_taken and leader.table is table:
            leader.epoch_taken = True
        if not left:
            done(took)

    def serve(record: WorkerRecord, answer: Callable[[int | Rejected | None], None]) -> None:
        worker = leader.world.worker(record)
        if worker.boot_id != record.boot_id:
            answer(None)
        elif isinstance(worker, ExpertWorker):
            worker.commit(table, answer)
        else:
            leader.world.attention[record.worker_id].apply(table, answer)

    if not records:
        done(took)
    for record in records:
        leader.world.network.call(
            leader.router,
            leader.world.worker(record),
            partial(serve, record),
            partial(pushed, record),
            QUICK_S,
        )


def load_given(leader: Leader, table: Table, record: WorkerRecord) -> None:
    """Makes a worker that did not take the table load what it is given: as `Pushes` does."""
    worker, items = leader.world.experts[record.worker_id], tuple(given_to(table, record).tolist())

    def serve(answer: Callable[[list[int] | Rejected | None], None]) -> None:
        if worker.boot_id == record.boot_id:
            worker.prepare(table.epoch, items, answer)
        else:
            answer(None)

    if items:
        leader.world.network.call(leader.router, worker, serve, lambda _: None, LOAD_TIMEOUT_S)


class PlacementChange:
    """`needs`: boot ids without which it cannot end. It is `over` at its end, or when it has been cancelled."""

    def __init__(
        self, leader: Leader, plan: Plan, usable: Sequence[WorkerRecord], attention: Sequence[WorkerRecord]
    ) -> None:
        self._leader, self._plan, self._usable, self._attention = leader, plan, usable, attention
        self.needs = frozenset(r.boot_id for r in usable if r.worker_id in plan.after.worker_ids)
        self.over = False
        self._epoch = 0

    def start(self) -> None:
        """First phase: every worker loads what it gains."""
        leader = self._leader
        self._epoch = leader.terms.next_epoch(leader.epoch)
        records = {r.worker_id: r for r in self._usable}
        found = gains(self._plan.before, self._plan.after)
        wanted = [(records[name], tuple(items.tolist())) for name, items in found.items()]
        left = len(wanted)

        def prepared(record: WorkerRecord, items: tuple[int, ...], reply: list[int] | Rejected | None) -> None:
            nonlocal left
            left -= 1
            if self.over:
                return
            if why := self._failure(items, reply):
                leader.backoffs.fail(record, why, leader.router.now)
                self.over = True
            elif not left:
                self._publish()

        if not wanted:
            self._publish()
        for record, items in wanted:
            self._prepare(record, items, prepared)

    def _prepare(
        self,
        record: WorkerRecord,
        items: tuple[int, ...],
        done: Callable[[WorkerRecord, tuple[int, ...], list[int] | Rejected | None], None],
    ) -> None:
        leader = self._leader
        worker = leader.world.experts[record.worker_id]

        def serve(answer: Callable[[list[int] | Rejected | None], None]) -> None:
            if worker.boot_id != record.boot_id:
                answer(None)
            else:
                worker.prepare(self._epoch, items, answer)

        leader.world.network.call(leader.router, worker, serve, partial(done, record, items), LOAD_TIMEOUT_S)

    def _failure(self, items: tuple[int, ...], reply: list[int] | Rejected | None) -> str:
        if reply is None or isinstance(reply, Rejected):
            return "it is gone" if reply is None else reply.why
        for item, digest in zip(items, reply, strict=True):
            if self._leader.digests.setdefault(item, digest) != digest:
                return f"expert {item} answers the golden row otherwise"
        return ""

    def _publish(self) -> None:
        """Second phase: attention workers get the table before expert workers do."""
        leader = self._leader
        table = to_table(self._epoch, leader.numerics_class, self._plan.after, self._usable)
        leader.publish(table)
        leader.backoffs.joined([r for r in self._usable if r.worker_id in self._plan.after.worker_ids])
        leader.world.redis.ask(leader.router, lambda redis: redis.write_table(table), lambda _: self._push(table))

    def _push(self, table: Table) -> None:
        def to_experts(first: Took) -> None:
            if not self.over:
                leader.router.after(
                    DRAIN_CALLS_S, lambda: push(leader, table, self._usable, lambda took: end(first | took))
                )

        def end(took: Took) -> None:
            if not self.over and leader.table is table:
                leader.took |= took
            self.over = True

        leader = self._leader
        if not self.over:
            push(leader, table, self._attention, to_experts)
