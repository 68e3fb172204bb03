"""Whether workers have room for two replicas of every expert, when nobody has said how many there are to be. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from services.membership.record import WorkerRecord


def default_replicas(items: int, workers: Sequence[WorkerRecord]) -> int:
    """Returns 2 if each worker that stays has room for an equal share of two replicas of `items` experts, else 1.

    A worker's room is its capacity, else what fits its memory, of which workers of one address have a part each. Of
    one that knows neither it is boundless.
    """
    staying = [worker for worker in workers if not worker.leaves]
    here = Counter(map(_machine, staying))
    share = -(-2 * items // max(1, len(staying)))
    return 2 if len(staying) > 1 and all(_has_room(one, share, here[_machine(one)]) for one in staying) else 1


def _has_room(worker: WorkerRecord, share: int, beside: int) -> bool:
    if worker.capacity:
        return worker.capacity >= share
    return not worker.fitting or worker.fitting // beside >= share


def _machine(worker: WorkerRecord) -> str:
    return worker.address.rpartition(":")[0]
