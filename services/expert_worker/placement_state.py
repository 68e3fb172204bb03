"""Which experts a worker has loaded, under which epoch; changed in two phases, prepare and commit. Knows no network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import numpy as np
from caracal_proto import placement_pb2
from caracal_proto.placements import PlacementError, takes_epoch_of, unpack_layer

from services.expert_worker.experts import Experts
from services.membership.checks import epoch_violation, table_violation

ExpertKey = tuple[int, int]
Progress = Callable[[int, int], None]


class StaleTable(ValueError):
    """The placement is older than one this worker has seen."""


class EpochTaken(ValueError):
    """This worker has another table of the same epoch: two leaders have given one."""


class CallerGone(Exception):
    """Expected: nobody waits for the end of a `prepare` any more."""


class WrongTable(ValueError):
    """This worker cannot serve the placement: another numerics class or shape, experts that were not prepared here, or
    an epoch that nobody can have reached."""


class PlacementState:
    """The worker's experts and the highest epoch committed. `prepare` and `commit` run one at a time, beside calls."""

    def __init__(self, experts: Experts, worker_id: str, boot_id: str, numerics_class: str) -> None:
        self.experts = experts
        self.worker_id, self.boot_id, self.numerics_class = worker_id, boot_id, numerics_class
        self.epoch = 0
        self.published: Callable[[], int] = lambda: 0  # the epoch of the published table, for who is new or was away
        self.draining = False
        self.drained = False  # a draining worker that the placement gives no expert: it may exit
        self._table: placement_pb2.Table | None = None  # the last one committed
        self._prepared: dict[ExpertKey, int] = {}  # the highest epoch for which each expert was prepared
        self._changing = threading.Lock()
        self._watchers: list[Callable[[int], None]] = []

    def prepare(self, epoch: int, wanted: list[ExpertKey], progress: Progress) -> list[int]:
        """Loads and warms up experts; returns their golden digests. A failure unloads those that were new.

        `progress` is called after each expert, and may raise CallerGone. Raises StaleTable, WrongTable,
        CheckpointError.
        """
        with self._changing:
            self._check_epoch(epoch)
            before = self.experts.loaded
            try:
                return [self._load(key, epoch, done, len(wanted), progress) for done, key in enumerate(wanted, 1)]
            except CallerGone:  # what was loaded is likely to be asked for again; the next commit drops the rest
                raise
            except BaseException:  # memory that is short, too: what stays loaded would take more of it
                self._drop(set(wanted) - before)
                raise

    def watch_epoch(self, notify: Callable[[int], None]) -> None:
        """Calls `notify` with the epoch now, and with each new one before anything is unloaded for it.

        It does not wait for a `prepare`, so `notify` may hear an older epoch after a newer one.
        """
        self._watchers.append(notify)
        notify(self.epoch)

    def commit(self, table: placement_pb2.Table) -> tuple[int, int]:
        """Unloads what the table does not give this worker; returns (epoch, experts given).

        What was prepared for a later epoch stays: a leader that does not know yet that another one has taken over may
        commit while that one's experts are being loaded here. Raises StaleTable, EpochTaken, WrongTable.
        """
        with self._changing:
            self._check_epoch(table.epoch)
            if takes_epoch_of(table, self._table):
                raise EpochTaken(f"epoch {table.epoch} is another table's here")
            if violation := table_violation(table):
                raise WrongTable(f"the table is not taken: {violation}")
            if table.numerics_class not in ("", self.numerics_class):
                raise WrongTable(f"the table is for {table.numerics_class}, this worker is {self.numerics_class}")
            given = self._given(table)
            loaded = self.experts.loaded
            if missing := given - loaded:
                layer, expert = min(missing)
                raise WrongTable(f"the table gives expert {expert} of layer {layer}, which was not prepared here")
            # The epoch first: a call routed by the old table is rejected as stale, not for an expert that is missing.
            self.epoch, self._table = table.epoch, table
            for notify in self._watchers.copy():
                notify(self.epoch)
            self._drop({key for key in loaded - given if not self._is_for_later(key)})
            if self.draining and not given:
                self.drained = True
            return self.epoch, len(given)

    def drain(self) -> None:
        """Starts the drain; a worker with nothing loaded is drained at once."""
        self.draining = True
        if not self.experts.loaded:
            self.drained = True

    def _given(self, table: placement_pb2.Table) -> set[ExpertKey]:
        me = [i for i, w in enumerate(table.workers) if (w.worker_id, w.boot_id) == (self.worker_id, self.boot_id)]
        given: set[ExpertKey] = set()
        if len(table.layers) != self.experts.num_layers:
            raise WrongTable(f"the table has {len(table.layers)} layers, the model {self.experts.num_layers}")
        for layer, placement in enumerate(table.layers):
            try:
                replicas_F, worker_A = unpack_layer(placement)
            except PlacementError as error:
                raise WrongTable(f"layer {layer} of the table: {error}") from None
            if len(replicas_F) != self.experts.num_ffn:
                raise WrongTable(
                    f"layer {layer} of the table has {len(replicas_F)} experts, not {self.experts.num_ffn}"
                )
            if worker_A.max(initial=-1) >= len(table.workers):
                raise WrongTable(f"layer {layer} of the table places an expert on a worker that it does not name")
            expert_A = np.repeat(np.arange(len(replicas_F)), replicas_F)
            given.update((layer, expert) for expert in expert_A[np.isin(worker_A, me)].tolist())
        return given

    def _is_for_later(self, key: ExpertKey) -> bool:
        return self._prepared.get(key, 0) > self.epoch

    def _load(self, key: ExpertKey, epoch: int, done: int, total: int, progress: Progress) -> int:
        digest = self.experts.load(*key)
        self._prepared[key] = max(epoch, self._prepared.get(key, 0))
        progress(done, total)
        return digest

    def _drop(self, keys: Iterable[ExpertKey]) -> None:
        for layer, expert in keys:
            self._prepared.pop((layer, expert), None)
            self.experts.drop(layer, expert)

    def _check_epoch(self, epoch: int) -> None:
        if epoch < self.epoch:
            raise StaleTable(f"epoch {epoch} is below {self.epoch}, which this worker has seen")
        if epoch_violation(epoch, self.epoch) and (
            violation := epoch_violation(epoch, max(self.epoch, self.published()))
        ):
            raise WrongTable(violation)
