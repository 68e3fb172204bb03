"""Chooses the attention worker for a sequence. Pure: no clock, no sockets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWorkerView:
    """An attention worker as its lease describes it. `load`: its running and waiting sequences, as it reports them."""

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
        """Whether it takes new sequences: it has a placement table and is not draining."""
        return self.epoch > 0 and not self.draining


def choose_worker(
    workers: Iterable[AttentionWorkerView],
    open_here: Mapping[str, int],
    *,
    numerics_class: str | None = None,
    avoid: Collection[str] = (),
) -> AttentionWorkerView | None:
    """Returns the least loaded serving worker: fewest sequences open from this router, then lowest `load`, then id.

    A sequence that began under a numerics class stays in it. Workers in `avoid` (ids that just failed) are chosen only
    when there is no other. None when no worker can take the sequence.
    """
    usable = [
        worker
        for worker in workers
        if worker.serving and (numerics_class is None or worker.numerics_class == numerics_class)
    ]
    return min(
        usable,
        key=lambda worker: (
            worker.worker_id in avoid,
            open_here.get(worker.worker_id, 0),
            worker.load,
            worker.worker_id,
        ),
        default=None,
    )
