"""An attention worker's table and its links to expert workers: when a call is overdue, who is avoided and probed, by
the real `Suspects`, `Latencies` and `HedgeBudget`. Messages that were damaged on their way are noticed at their end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Protocol

from caracal_proto.placement_pb2 import Table
from caracal_proto.placements import workers_of
from simulation.expert_worker import LAYER, Answer, Call
from simulation.oracle import EXPERTS, Row

from services.router.dispatch.call_latency import FEWEST, NEVER, HedgeBudget, HedgeOptions, Latencies, size_of
from services.router.dispatch.errors import CallDamaged, InvalidReply
from services.router.dispatch.expert_workers import DAMAGED_WITHIN_S, DEPARTED_LINK_S, MOST_DAMAGED, PROBE_S
from services.router.dispatch.link_health import READ_S
from services.router.dispatch.suspects import HEALTHY_S, LOOK_S, Suspects
from services.router.dispatch.table import Key, key_of

if TYPE_CHECKING:
    from simulation.attention_worker import AttentionWorker

CALL_TIMEOUT_S = 20.0
USUAL_S = 0.006  # a call's latency in a cluster that has run for a while
MOST_ASSIGNMENTS = 16
BAD_LINK = "calls to an expert worker are damaged"


class CallTimes:
    """When calls are overdue: by their size, as the latencies of an attention worker say that has known its expert
    workers for a while, in which they answered in the usual time."""

    def __init__(self) -> None:
        self._latencies: Latencies[Key] = Latencies(HedgeOptions())
        self._limits: dict[Key, list[float]] = {}
        self._read_at = -math.inf

    def meet(self, keys: Collection[Key]) -> None:
        """Takes the workers of a table; forgets the others."""
        self._latencies.keep_only(keys)
        for key in keys:
            if key not in self._limits:
                for size in range(1, MOST_ASSIGNMENTS.bit_length()):
                    for _ in range(FEWEST):
                        self._latencies.add(key, 1 << (size - 1), USUAL_S)
        self._limits = self._latencies.overdue_after()

    def add(self, key: Key, assignments: int, seconds: float) -> None:
        """Takes the latency of a call that was answered."""
        if key in self._limits:
            self._latencies.add(key, assignments, seconds)

    def overdue_after(self, key: Key, assignments: int, now: float) -> float:
        if now >= self._read_at + READ_S:
            self._read_at, self._limits = now, self._latencies.overdue_after()
        return self._limits[key][size_of(assignments)] if key in self._limits else NEVER


@dataclass(frozen=True, slots=True)
class Routes:
    """A table as calls use it: per expert, the workers of its replicas, as indices into `keys`."""

    epoch: int = 0
    keys: tuple[Key, ...] = ()
    replicas: tuple[tuple[int, ...], ...] = ((),) * EXPERTS

    @classmethod
    def of(cls, table: Table) -> Routes:
        keys = tuple(map(key_of, table.workers))
        return cls(table.epoch, keys, tuple(map(tuple, workers_of(table.layers[LAYER]))))


class Taker(Protocol):
    """Who waits for calls."""

    def take(self, sent: Sent, answer: Answer | None) -> None: ...


@dataclass(slots=True, eq=False)
class Sent:
    """A call on its way. `hedge_of`: the one that it stands in for; `hedges`: those that stand in for it."""

    number: int
    key: Key
    epoch: int
    wanted: tuple[tuple[Row, int], ...]
    taker: Taker
    sent_at: float
    overdue_at: float
    hedge_of: Sent | None = None
    hedges: list[Sent] | None = None
    answer: Answer | None = None  # of a hedge, until all of them have come


@dataclass(slots=True, eq=False)
class _Waiting:
    """Somebody who waits for a newer table than that of `epoch`."""

    epoch: int
    then: Callable[[bool], None]
    over: bool = field(default=False)


class ExpertLinks:
    def __init__(self, worker: AttentionWorker) -> None:
        self._worker, self._world = worker, worker.world
        self.routes = Routes()
        self.suspects: Suspects[Key] = Suspects()
        self.times = CallTimes()
        self._damaged: dict[Key, deque[float]] = {}
        self._budget = HedgeBudget(HedgeOptions().budget)
        self._answered: dict[Key, int] = {}
        self._numbers = count(1)
        self._calls = 0
        self.pending: dict[int, Sent] = {}
        self._waiting: list[_Waiting] = []
        self._looking = False

    def apply(self, table: Table) -> int:
        """As `ExpertWorkerPool.apply`."""
        if table.epoch > self.routes.epoch or self._world.mutation.takes_any_table:
            departed = set(self.routes.keys)
            self.routes = Routes.of(table)
            departed -= set(self.routes.keys)
            self.suspects.keep_only(self.routes.keys)
            self.times.meet(self.routes.keys)
            if departed:
                self._worker.after(DEPARTED_LINK_S, lambda: self._close(departed))
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                self._tell(one, one.epoch < self.routes.epoch)
        return self.routes.epoch

    def view(self) -> list[Sequence[int]]:
        """The replicas without those on suspects, except where there is no other."""
        avoided = {at for at, key in enumerate(self.routes.keys) if key in self.suspects.keys}
        return [[one for one in workers if one not in avoided] or workers for workers in self.routes.replicas]

    def send(self, key: Key, epoch: int, wanted: tuple[tuple[Row, int], ...], taker: Taker) -> Sent:
        """Sends a call; `taker` gets its answer, unless it is given up before."""
        now = self._worker.now
        overdue_at = now + self.times.overdue_after(key, len(wanted), now)
        sent = Sent(next(self._numbers), key, epoch, wanted, taker, now, overdue_at)
        self._calls += 1
        self.pending[sent.number] = sent
        self._call(key, Call(sent.number, epoch, wanted), lambda answer: self._take(sent, answer), CALL_TIMEOUT_S)
        return sent

    def may_hedge(self) -> bool:
        return self._budget.take(self._calls, 1)

    def give_up(self, sent: Sent) -> None:
        """What it brings is not needed."""
        self.pending.pop(sent.number, None)

    def overdue(self, key: Key) -> None:
        """Another worker has answered a call first."""
        if self.suspects.overdue(key, self._answered.get(key, 0), self._worker.now):
            self._look()

    def failed(self, key: Key) -> None:
        if self.suspects.failed(key, self._worker.now):
            self._look()

    def is_bad_link(self, key: Key) -> bool:
        """As `ExpertWorkerPool.is_bad_link`."""
        seen = self._damaged.setdefault(key, deque(maxlen=MOST_DAMAGED))
        seen.append(self._worker.now)
        bad = len(seen) == MOST_DAMAGED and seen[0] > seen[-1] - DAMAGED_WITHIN_S
        if bad:
            self._world.noticed[BAD_LINK] += 1
            seen.clear()
        return bad

    def answered(self, sent: Sent) -> None:
        self.times.add(sent.key, len(sent.wanted), self._worker.now - sent.sent_at)
        self._answered[sent.key] = self._answered.get(sent.key, 0) + 1
        self.suspects.answered(sent.key, self._worker.now)

    def wait_newer(self, epoch: int, seconds: float, then: Callable[[bool], None]) -> None:
        """Asks for a newer table; tells `then` whether one has come."""
        self._worker.poll_table()
        waiting = _Waiting(epoch, then)
        self._waiting.append(waiting)
        self._worker.after(seconds, lambda: self._tell(waiting, False))

    def _tell(self, waiting: _Waiting, newer: bool) -> None:
        if not waiting.over:
            waiting.over = True
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            waiting.then(newer)

    def _call(self, key: Key, call: Call, done: Callable[[Answer | None], None], timeout_s: float) -> None:
        callee, caller, damages = self._world.experts[key[0]], self._worker, self._world.network.damages
        believes = self._world.mutation.believes_damaged

        def serve(answer: Callable[[Answer | None], None]) -> None:
            if callee.boot_id != key[1]:
                answer(None)
            elif damages(caller.name, callee.name) and not believes:
                answer(Answer(callee.boot_id, callee.numerics_class, error=CallDamaged("it is not what was sent")))
            else:
                callee.compute(call, answer)

        def arrived(answer: Answer | None) -> None:
            if answer is not None and answer.outputs and damages(callee.name, caller.name):
                if believes:
                    answer = replace(answer, outputs=(answer.outputs[0] ^ 1, *answer.outputs[1:]))
                else:
                    answer = replace(answer, outputs=(), error=InvalidReply("it is not what was sent"))
            done(answer)

        self._world.network.call(caller, callee, serve, arrived, timeout_s)

    def _take(self, sent: Sent, answer: Answer | None) -> None:
        if self.pending.pop(sent.number, None) is not None:
            sent.taker.take(sent, answer)
        elif answer is not None and self._world.mutation.counts_late_replies:
            self._worker.count_late(answer)

    def _close(self, departed: set[Key]) -> None:
        for sent in [sent for sent in self.pending.values() if sent.key in departed]:
            if sent.key not in self.routes.keys:
                self._take(sent, None)

    def _look(self) -> None:
        """Probes suspects when they are due, for as long as there are any."""
        if not self._looking:
            self._looking = True
            self._worker.after(LOOK_S, self._probe_those_due)

    def _probe_those_due(self) -> None:
        self._looking = False
        if self.suspects.keys:
            self._look()
        for key in self.suspects.due(self._worker.now):
            self._probe(key)

    def _probe(self, key: Key) -> None:
        began, routes = self._worker.now, self.routes
        at = routes.keys.index(key) if key in routes.keys else -1
        held = [expert for expert, workers in enumerate(routes.replicas) if at in workers]

        def probed(answer: Answer | None) -> None:
            seconds = self._worker.now - began if answer is not None and answer.error is None else math.inf
            healthy = seconds <= max(HEALTHY_S, self.times.overdue_after(key, 1, self._worker.now))
            self.suspects.probed(key, healthy, self._worker.now)

        if not held:
            probed(None)
        else:
            self._call(key, Call(0, routes.epoch, ((Row(0, 0, 0), held[0]),)), probed, PROBE_S)
