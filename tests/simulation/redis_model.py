"""Redis: keys that expire by its own wall clock, the published table, and who holds the leader's lease.

Commands are atomic where they arrive. It may be away, refuse to be written to, lose what was written last, or all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from caracal_proto.placement_pb2 import Table
from simulation.network import Network
from simulation.timeline import Process, Timeline

from services.membership.pulse import Pulse
from services.membership.record import WorkerRecord
from services.membership.redis import LEASE_MS
from services.router.placement.leader import LEADER_LEASE_MS

TIMEOUT_S = 2.0  # after which a client takes it for away, as `bounded` does
SNAPSHOT_S = 0.2  # between two states that a failover may go back to
SNAPSHOTS = 10

Reply = TypeVar("Reply")


class Unavailable(Exception):
    """What a command meets where Redis refuses it."""


@dataclass(slots=True)
class State:
    """What it has. Values with a lease come with the time, by its wall clock, until which they are kept."""

    leases: dict[tuple[str, str], tuple[WorkerRecord, float]]
    leader: tuple[str, float] | None = None
    table: Table | None = None
    term: int = 0
    changes: int = 0
    wrong: frozenset[str] = frozenset()  # runs of workers that are in quarantine

    def copy(self) -> State:
        return State(dict(self.leases), self.leader, self.table, self.term, self.changes, self.wrong)


class SimulatedRedis(Process):
    def __init__(self, timeline: Timeline, network: Network) -> None:
        super().__init__(timeline, "redis")
        self._network = network
        self.state = State({})
        self.refuses_writes = False
        self.marks_convicts = True  # False under a mutation
        self._past: deque[tuple[float, State]] = deque(maxlen=SNAPSHOTS)
        self.watchers: dict[str, tuple[Process, int, Callable[[], None]]] = {}  # who is notified of changes

    def begin(self) -> None:
        self.refuses_writes = False

    def ask(
        self, client: Process, command: Callable[[SimulatedRedis], Reply], done: Callable[[Reply | None], None]
    ) -> None:
        """Runs a command here and gives its reply to `done`; None when Redis is away or refuses it."""

        def serve(answer: Callable[[Reply | None], None]) -> None:
            try:
                answer(command(self))
            except Unavailable:
                answer(None)

        self._network.call(client, self, serve, done, TIMEOUT_S)

    def write(self) -> State:
        """The state, for a command that changes it. Raises Unavailable."""
        if self.refuses_writes:
            raise Unavailable
        if not self._past or self._past[-1][0] <= self.now - SNAPSHOT_S:
            self._past.append((self.now, self.state.copy()))
        return self.state

    def lose(self, seconds: float) -> None:
        """A failover: what was written in the last seconds is gone."""
        while self._past and self._past[-1][0] > self.now - seconds:
            _, self.state = self._past.pop()

    def wipe(self) -> None:
        self.state = State({})
        self._past.clear()

    @property
    def _wall(self) -> float:
        return self.now + self.clock_offset

    def put_lease(self, record: WorkerRecord, *, changed: bool) -> bool:
        self.write().leases[record.role, record.worker_id] = record, self._wall + LEASE_MS / 1000
        if changed:
            self._tell()
        return True

    def withdraw(self, record: WorkerRecord) -> bool:
        self.write().leases.pop((record.role, record.worker_id), None)
        self._tell()
        return True

    def records(self, role: str) -> list[WorkerRecord]:
        found = [(name, one) for (its, name), one in self.state.leases.items() if its == role]
        return [self._marked(record) for _, (record, until) in sorted(found) if until > self._wall]

    def _marked(self, record: WorkerRecord) -> WorkerRecord:
        """As `Quarantine.mark`."""
        wrong = self.marks_convicts and record.boot_id in self.state.wrong
        return replace(record, quarantined="it differs") if wrong else record

    def pulse(self, candidate: str) -> Pulse:
        """As `Membership.pulse`: takes the leader's lease where nobody has it, renews it where the candidate has; with
        an empty name it only looks."""
        holder = self._holder
        taken = bool(candidate) and not holder
        if candidate and (not holder or holder == candidate):
            self.write().leader = candidate, self._wall + LEADER_LEASE_MS / 1000
            holder = candidate
        elif self.refuses_writes:
            raise Unavailable
        state = self.state
        epoch = state.table.epoch if state.table is not None else 0
        return Pulse(bool(candidate) and holder == candidate, epoch, state.term, state.changes, taken, not state.term)

    def resign(self, holder: str) -> bool:
        """As `Membership.resign`."""
        if self._holder == holder:
            self.write().leader = None
        return True

    @property
    def _holder(self) -> str:
        """Who has the leader's lease; empty when nobody has."""
        leader = self.state.leader
        return leader[0] if leader is not None and leader[1] > self._wall else ""

    def convict(self, boot_id: str) -> bool:
        """As `Quarantine.add`: this run computes wrongly."""
        self.write().wrong |= {boot_id}
        self._tell()
        return True

    def write_table(self, table: Table, over: int = 0) -> bool:
        """As `PlacementHash.write_table`."""
        state = self.write()
        stored = state.table.epoch if state.table is not None else 0
        if stored <= table.epoch or stored == over:
            state.table = table
            return True
        return False

    def write_term(self, first: int, over: int = 0) -> bool:
        """As `PlacementHash.write_term`."""
        state = self.write()
        if state.term < first or state.term == over:
            state.term = first
            return True
        return False

    def _tell(self) -> None:
        self.state.changes += 1
        for process, run, wake in self.watchers.values():
            self._network.carry(self.name, process.name, partial(process.do, run, wake))
