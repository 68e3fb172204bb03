"""What a worker holds, under which epoch: the two phases of a placement. Knows no network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from caracal_proto import placement_pb2

from services.expert_worker.experts import Experts

ExpertKey = tuple[int, int]
Progress = Callable[[int, int], None]


class StaleTable(ValueError):
    """A placement older than one this worker has seen."""


class WrongTable(ValueError):
    """A placement that this worker cannot serve: another numerics class, or experts it was never told to load."""


class PlacementState:
    """Experts and the highest epoch committed. `prepare` and `commit` come one at a time, beside serving."""

    def __init__(self, experts: Experts, worker_id: str, boot_id: str, numerics_class: str) -> None:
        self.experts = experts
        self.worker_id, self.boot_id, self.numerics_class = worker_id, boot_id, numerics_class
        self.epoch = 0
        self.draining = False
        self.drained = False  # a draining worker is given nothing: it may go
        self._changing = threading.Lock()

    def prepare(self, epoch: int, wanted: list[ExpertKey], progress: Progress) -> list[int]:
        """Loads and warms experts; returns their golden digests. All or nothing: a failure lets the new ones go again.

        Raises StaleTable, CheckpointError.
        """
        with self._changing:
            self._refuse_stale(epoch)
            before = self.experts.loaded
            try:
                return [self._load(key, done, len(wanted), progress) for done, key in enumerate(wanted, 1)]
            except ValueError:
                self._drop(set(wanted) - before)
                raise

    def commit(self, table: placement_pb2.Table) -> tuple[int, int]:
        """Keeps only what the table gives; returns (epoch in force, experts loaded). Raises StaleTable, WrongTable."""
        with self._changing:
            self._refuse_stale(table.epoch)
            if table.numerics_class not in ("", self.numerics_class):
                raise WrongTable(f"the table is for {table.numerics_class}, this worker is {self.numerics_class}")
            given = self._given(table)
            loaded = self.experts.loaded
            if missing := given - loaded:
                layer, expert = min(missing)
                raise WrongTable(f"the table gives expert {expert} of layer {layer}, which was not prepared here")
            # The epoch first: a call routed by the old table is told that it is stale, not that an expert is missing.
            self.epoch = table.epoch
            self._drop(loaded - given)
            if self.draining and not given:
                self.drained = True
            return self.epoch, len(given)

    def drain(self) -> None:
        """Asks to be let go; with nothing loaded there is nothing to wait for."""
        self.draining = True
        if not self.experts.loaded:
            self.drained = True

    def _given(self, table: placement_pb2.Table) -> set[ExpertKey]:
        me = {i for i, w in enumerate(table.workers) if (w.worker_id, w.boot_id) == (self.worker_id, self.boot_id)}
        return {
            (layer, expert)
            for layer, placement in enumerate(table.layers)
            for expert, replicas in enumerate(placement.experts)
            if me.intersection(replicas.worker)
        }

    def _load(self, key: ExpertKey, done: int, total: int, progress: Progress) -> int:
        digest = self.experts.load(*key)
        progress(done, total)
        return digest

    def _drop(self, keys: Iterable[ExpertKey]) -> None:
        for layer, expert in keys:
            self.experts.drop(layer, expert)

    def _refuse_stale(self, epoch: int) -> None:
        if epoch < self.epoch:
            raise StaleTable(f"epoch {epoch} is below {self.epoch}, which this worker has seen")
