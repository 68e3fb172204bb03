"""An expert worker: epochs, and what is loaded, are the real `PlacementState`'s; what it computes is the oracle's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from caracal_proto.placement_pb2 import Table
from simulation.oracle import CLASS, EXPERTS, Row, digest, expert_output
from simulation.worker import Described, Worker

from services.expert_worker.experts import Experts
from services.expert_worker.placement_state import EpochTaken, PlacementState, StaleTable, WrongTable
from services.membership.record import WorkerRecord
from services.router.dispatch.errors import DispatchError, NotLoaded, StaleEpoch

if TYPE_CHECKING:
    from simulation.world import World

LOAD_S, COMPUTE_S = 0.02, 0.002
LAYER = 0


class LoadedExperts:
    """What `PlacementState` uses of `Experts`: a set, and digests that the class determines."""

    num_layers, num_ffn = 1, EXPERTS

    def __init__(self, numerics_class: str) -> None:
        self._class = numerics_class
        self.loaded: set[tuple[int, int]] = set()

    def load(self, layer: int, expert: int) -> int:
        self.loaded = self.loaded | {(layer, expert)}
        return digest(self._class, expert)

    def drop(self, layer: int, expert: int) -> None:
        self.loaded = self.loaded - {(layer, expert)}


@dataclass(frozen=True, slots=True)
class Call:
    """One call for some rows of a step, as an attention worker sends it."""

    number: int
    epoch: int
    wanted: tuple[tuple[Row, int], ...]  # rows, each with an expert


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply: rows, or why there are none. `boot_id` and `numerics_class` say who has computed them."""

    boot_id: str
    numerics_class: str
    outputs: tuple[int, ...] = ()
    error: DispatchError | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A placement call that a worker has rejected."""

    why: str
    epoch_taken: bool = False


class ExpertWorker(Worker):
    role = "expert"

    def __init__(self, world: World, name: str, numerics_class: str = CLASS) -> None:
        super().__init__(world, name)
        self.numerics_class = numerics_class

    def begin(self) -> None:
        experts = LoadedExperts(self.numerics_class)
        make = self.world.mutation.placement_state or PlacementState
        self.state = make(cast("Experts", experts), self.name, self.boot_id, self.numerics_class)
        super().begin()

    def record(self) -> WorkerRecord:
        return WorkerRecord(
            worker_id=self.name,
            role=self.role,
            address=f"{self.name}:1",
            boot_id=self.boot_id,
            numerics_class=self.numerics_class,
            epoch=self.state.epoch,
            draining=self.draining,
            loaded=len(self.state.experts.loaded),
        )

    def describe(self) -> Described:
        loaded = tuple(sorted(expert for _, expert in self.state.experts.loaded))
        return Described(self.boot_id, self.state.epoch, self.draining, loaded)

    def drain(self) -> None:
        """Takes its leave: the leader moves its experts off, then it goes."""
        if self.alive and not self.draining:
            self.draining = True
            self.state.drain()
            self.announce()
            self._leave_when_drained()

    def _leave_when_drained(self) -> None:
        if self.state.drained:
            self.leave()

    def prepare(
        self, epoch: int, wanted: tuple[int, ...], answer: Callable[[list[int] | Rejected | None], None]
    ) -> None:
        """Loads experts; answers with their digests."""
        try:
            digests = self.state.prepare(epoch, [(LAYER, expert) for expert in wanted], lambda done, total: None)
        except (StaleTable, WrongTable) as error:
            answer(Rejected(str(error)))
            return
        self.after(LOAD_S * len(wanted), lambda: answer(digests))

    def commit(self, table: Table, answer: Callable[[bool | Rejected | None], None]) -> None:
        before = self.state.epoch
        try:
            self.state.commit(table)
        except (StaleTable, EpochTaken, WrongTable) as error:
            answer(Rejected(str(error), isinstance(error, EpochTaken)))
            return
        self.world.checks.took_table(self, before, self.table, table)
        self.table = table
        self.announce()
        self._leave_when_drained()
        answer(True)

    def compute(self, call: Call, answer: Callable[[Answer | None], None]) -> None:
        """Computes a call's rows, under the rules of `services/expert_worker/service.py`."""
        if call.epoch < self.state.epoch:
            error: DispatchError = StaleEpoch(f"epoch {call.epoch} is below {self.state.epoch}", self.state.epoch)
            answer(Answer(self.boot_id, self.numerics_class, error=error))
            return
        loaded = self.state.experts.loaded
        if any((LAYER, expert) not in loaded for _, expert in call.wanted):
            answer(Answer(self.boot_id, self.numerics_class, error=NotLoaded("not loaded here", self.state.epoch)))
            return
        outputs = tuple(expert_output(self.numerics_class, expert, row) for row, expert in call.wanted)
        self.after(COMPUTE_S, lambda: answer(Answer(self.boot_id, self.numerics_class, outputs)))
