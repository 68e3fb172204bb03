"""Which attention worker gets a sequence. Pure: no clock, no sockets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWorker:
    """An attention worker as its lease describes it. `load` is what it reports: running + waiting sequences."""

    worker_id: str
    address: str
    boot_id: str = ""
    numerics_class: str = ""
    epoch: int = 0
    draining: bool = False
    load: float = 0.0
    kv_usage: float = 0.0

    @property
    def serving(self) -> bool:
        """It takes new sequences: it has a placement table, and is not about to leave."""
        return self.epoch > 0 and not self.draining


def choose_worker(
    workers: Iterable[AttentionWorker],
    open_here: Mapping[str, int],
    *,
    numerics_class: str | None = None,
    avoid: Collection[str] = (),
) -> AttentionWorker | None:
    """The least loaded serving worker: fewest sequences open from this router, then least reported, ties by id.

    A sequence that began under a numerics class stays in it. Workers in `avoid` (ids that just failed) are taken
    only when there is no other. None when nobody can take it.
    """
    fit = [
        worker
        for worker in workers
        if worker.serving and (numerics_class is None or worker.numerics_class == numerics_class)
    ]
    return min(
        fit,
        key=lambda worker: (
            worker.worker_id in avoid,
            open_here.get(worker.worker_id, 0),
            worker.load,
            worker.worker_id,
        ),
        default=None,
    )
