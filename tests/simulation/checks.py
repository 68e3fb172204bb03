"""What has to hold, whatever happens; each is looked at when the event that could break it has happened."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

from caracal_proto.placement_pb2 import Table
from simulation.oracle import CLASS, Row, expert_output

from services.router.dispatch.table import Key
from services.router.requests.errors import NoWorker, Quarantined
from services.router.requests.generation import FIRST_WORKER_S
from services.router.requests.progress import MAX_FAILURES_IN_A_ROW

if TYPE_CHECKING:
    from simulation.client import Client
    from simulation.expert_worker import Answer
    from simulation.mutations import Mutation
    from simulation.timeline import Process
    from simulation.worker import Worker
    from simulation.world import World


class Violation(AssertionError):
    """Something that must hold does not. `kind`: which of the things that must."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Checks:
    """One world's."""

    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation
        self._tables: dict[int, tuple[str, bytes]] = {}  # by epoch: which run published it first
        self._dead: set[str] = set()  # runs of attention workers
        self.faults_until = 0.0

    def delivered(self, client: Client, index: int, token: int) -> None:
        """A client got a token: its ids are at all times a prefix of the oracle's."""
        due = len(client.ids)
        if client.endings:
            raise Violation("prefix", f"{client.name} gets token {index} after its ending")
        if index != due or index >= len(client.oracle) or token != client.oracle[index]:
            raise Violation("prefix", f"{client.name} gets token {index} = {token} where {due} is due: {client.oracle}")

    def ended(self, client: Client) -> None:
        """A client got an ending: there is one, it is the oracle's, or says that workers have died under it."""
        if len(client.endings) > 1:
            raise Violation("one ending", f"{client.name}: {client.endings}")
        ending = client.endings[0]
        if ending == Quarantined.code:
            return  # looked at where it was decided
        if ending == NoWorker.code and client.now < self.faults_until + FIRST_WORKER_S:
            return  # faults have kept all of them out of reach for too long
        if ending not in ("stop", "length"):
            raise Violation("no lost ending", f"{client.name} ends with {ending}")
        if len(client.ids) != len(client.oracle) or ending != client.oracle_reason:
            raise Violation("prefix", f"{client.name} ends with {ending} after {len(client.ids)} tokens")

    def quarantined(self, request_id: str, boot_ids: Sequence[str]) -> None:
        """A router has given a request up since workers died under it: so many runs have died, or stood still."""
        if len(self._dead & set(boot_ids)) < MAX_FAILURES_IN_A_ROW:
            raise Violation("no quarantine without deaths", f"{request_id}: {boot_ids}")

    def died(self, boot_id: str) -> None:
        """A run of an attention worker has died, or stands still."""
        self._dead.add(boot_id)

    def published(self, router: Process, table: Table) -> None:
        """A leader begins to push a table: no epoch is given to two tables."""
        data = table.SerializeToString(deterministic=True)
        by, known = self._tables.setdefault(table.epoch, (router.boot_id, data))
        if known != data and not self._mutation.excuses_epochs:
            raise Violation("one table for an epoch", f"{table.epoch} is one of {by} and another of {router.boot_id}")

    def took_table(self, worker: Worker, before: int, last: Table | None, table: Table) -> None:
        """A worker has taken a table: epochs never fall, and it had no other of this epoch."""
        if table.epoch < before:
            raise Violation("epochs grow", f"{worker.name} goes from epoch {before} to {table.epoch}")
        if last is not None and last.epoch == table.epoch and last != table:
            raise Violation("epochs grow", f"{worker.name} takes two tables of epoch {before}")

    def used_row(self, key: Key, wanted: tuple[Row, int], answer: Answer, output: int) -> None:
        """An attention worker takes an output in: the run that it asked has computed it, with weights of its class."""
        row, expert = wanted
        if answer.boot_id != key[1] or answer.numerics_class != CLASS or output != expert_output(CLASS, expert, row):
            raise Violation("rows", f"{expert} of {row} from {answer.boot_id} of {answer.numerics_class}")

    @staticmethod
    def unsettled(world: World) -> str:
        """What is not as it should be in a cluster without faults, with nothing to do; empty when all is."""
        attention = [one for one in world.attention.values() if one.alive]
        experts = [one for one in world.experts.values() if one.alive and one.numerics_class == CLASS]
        for worker in attention:
            if worker.open or worker.pages.used or worker.scheduler.running or worker.scheduler.waiting:
                return f"pages: {worker.name} has {worker.pages.used} pages in use, {len(worker.open)} sequences"
            if worker.links.pending:
                return f"calls: {worker.name} awaits {len(worker.links.pending)}"
        for router in world.routers.values():
            if any(router.open_on.values()) or router.attempts or router.generations:
                return f"places: {router.name} has {dict(router.open_on)} open"
        leaders = [router for router in world.routers.values() if router.leader.leading]
        if len(leaders) != 1:
            return f"leader: there are {len(leaders)}"
        epoch, table = leaders[0].leader.epoch, leaders[0].leader.table
        named = {worker.boot_id for worker in table.workers} if table is not None else set()
        for one in (*attention, *experts):  # an expert worker cannot leave where all others compute wrongly
            its = one.describe().epoch
            may_stay = (
                one.role == "expert" and not {e.boot_id for e in experts if e is not one} - world.redis.state.wrong
            )
            if its != epoch or one.table != table or (one.draining and not may_stay):
                return f"epochs: {one.name} has {its}, the leader {epoch}; draining: {one.draining}"
        missing = named - {one.boot_id for one in experts}
        return f"table: {sorted(missing)} are in it" if missing or not named else _convicts(world, named)


def _convicts(world: World, named: Set[str]) -> str:
    """Which workers in quarantine are used though there are others; empty when none is. `named`: runs in the table."""
    wrong = world.redis.state.wrong
    staying = [one for one in world.experts.values() if one.alive and not one.draining]
    experts = {one.boot_id for one in staying if one.numerics_class == CLASS}
    if experts - wrong and named & wrong:
        return f"quarantine: {sorted(named & wrong)} are in the table"
    serving = {
        view.boot_id for router in world.routers.values() if router.alive for view in router.views if view.serving
    }
    if serving - wrong and serving & wrong:
        return f"quarantine: {sorted(serving & wrong)} get sequences"
    return ""
