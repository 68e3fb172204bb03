"""Chooses the attention worker for a sequence. Pure: no clock, no sockets.

What a worker has of a prompt in its cache it need not compute; but a sequence waits, step by step, for the others
there. So a worker that has some sequences more than the least loaded one is overloaded, and each of those beyond a few
counts as a part of a prompt: it is worth waiting for only while more is cached.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

FEW = 4  # sequences more than at the least loaded worker, that make none overloaded
TOKENS_PER_SEQUENCE = 256  # of a prompt, that each sequence beyond those counts as


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWorkerView:
    """An attention worker as its lease describes it. `load`: its running and waiting sequences, as it reports them.

    `generation`: of its numerics class, among those that the leader knows; the newest is the highest. `ended`: the
    class has lost experts for good, because another one replaces it. `wrong`: it computes wrongly, and another one of
    its class does not. `expert_differences`: how often it has found that expert workers differ.
    """

    worker_id: str
    address: str
    boot_id: str = ""
    numerics_class: str = ""
    numerics: tuple[tuple[str, str], ...] = ()  # the class's parts, in words
    epoch: int = 0
    draining: bool = False
    load: float = 0.0
    kv_usage: float = 0.0
    generation: int = 0
    ended: bool = False
    wrong: bool = False
    expert_differences: float = 0.0

    @property
    def serving(self) -> bool:
        """Whether it takes new sequences: it has a placement table, all experts, computes well and does not drain."""
        return self.epoch > 0 and not self.draining and not self.ended and not self.wrong


def choose_worker(
    workers: Iterable[AttentionWorkerView],
    open_here: Mapping[str, int],
    *,
    numerics_class: str | None = None,
    avoid: Collection[str] = (),
    cached: Mapping[str, int] = MappingProxyType({}),
    places: Mapping[str, int] = MappingProxyType({}),
) -> AttentionWorkerView | None:
    """Returns the serving worker with the longest cached part of the prompt, unless others have so much less to do.

    `cached`: tokens of the prompt that a worker seems to have, by id; a worker that has none of its `places` left gets
    no sequence for them. Where nobody has any, the least loaded is chosen: fewest sequences open from this router, then
    lowest `load`, then id.
    A sequence that began under a numerics class stays in it; a new one goes to the newest class that has a place left.
    Workers in `avoid` (ids that just failed) are chosen only
    when there is no other. None when no worker can take the sequence.
    """
    usable = [
        worker
        for worker in workers
        if worker.serving and (numerics_class is None or worker.numerics_class == numerics_class)
    ]

    # What workers report is a second old.
    load = {worker.worker_id: max(worker.load, open_here.get(worker.worker_id, 0)) for worker in usable}
    if numerics_class is None:
        usable = _newest(usable, [w for w in usable if w.worker_id not in avoid and not is_full(w, load, places)])
    least = min((load[worker.worker_id] for worker in usable if worker.worker_id not in avoid), default=0.0)

    def saved(worker: AttentionWorkerView) -> float:
        had = 0 if is_full(worker, load, places) else cached.get(worker.worker_id, 0)
        return had - TOKENS_PER_SEQUENCE * max(0, load[worker.worker_id] - least - FEW)

    some = any(cached.get(worker.worker_id, 0) for worker in usable)
    return min(
        usable,
        key=lambda worker: (
            worker.worker_id in avoid,
            -saved(worker) if some else 0,
            open_here.get(worker.worker_id, 0),
            worker.load,
            worker.worker_id,
        ),
        default=None,
    )


def is_full(worker: AttentionWorkerView, load: Mapping[str, float], places: Mapping[str, int]) -> bool:
    return 0 < places.get(worker.worker_id, 0) <= load[worker.worker_id]


def _newest(usable: list[AttentionWorkerView], free: list[AttentionWorkerView]) -> list[AttentionWorkerView]:
    """Those of the newest generation that has a free one; all when there is none."""
    newest = max((worker.generation for worker in free), default=None)
    return [worker for worker in usable if worker.generation == newest] if newest is not None else usable
