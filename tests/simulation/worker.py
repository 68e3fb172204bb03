"""What attention and expert workers have in common: a lease that is renewed each second, and a drain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from caracal_proto.placement_pb2 import Table
from simulation.timeline import Process

from services.membership.record import WorkerRecord
from services.membership.redis import RENEW_S

if TYPE_CHECKING:
    from simulation.world import World


@dataclass(frozen=True, slots=True)
class Described:
    """What a worker says of itself."""

    boot_id: str
    epoch: int
    draining: bool
    loaded: tuple[int, ...] = ()


class Worker(Process):
    role = ""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world.timeline, name)
        self.world = world
        self.draining = False
        self.table: Table | None = None  # the current one
        self._announced: tuple[object, ...] = ()

    def begin(self) -> None:
        self.draining, self.table, self._announced = False, None, ()
        self.every(RENEW_S, self.announce)

    def record(self) -> WorkerRecord:
        raise NotImplementedError

    def describe(self) -> Described:
        raise NotImplementedError

    def announce(self) -> None:
        """Renews the lease; tells others when more than counts has changed."""
        record = self.record()
        changed = record.membership() != self._announced

        def announced(done: bool | None) -> None:
            if done:
                self._announced = record.membership()

        self.world.redis.ask(self, lambda redis: redis.put_lease(record, changed=changed), announced)

    def leave(self) -> None:
        """Withdraws the lease, and ends the run."""
        record = self.record()
        self.world.redis.ask(self, lambda redis: redis.withdraw(record), lambda _: self.world.kill(self))
