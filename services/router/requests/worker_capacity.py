"""How many sequences a router may have at the attention workers. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.router.requests.worker_choice import AttentionWorkerView

UNKNOWN = 256  # places of a worker that does not say how many it has


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the attention workers have for this router: sequences at once, and tokens in their caches."""

    places: int
    cached_tokens: int


def capacity_of(
    workers: Iterable[AttentionWorkerView], places: Mapping[str, int], open_here: Mapping[str, int], routers: int
) -> int:
    """Returns the places that this one of `routers` may use.

    At each worker that is its share, or all that other routers leave free, as far as the worker's last report tells.
    """
    found = 0
    for worker in workers:
        has = places.get(worker.worker_id, 0) or UNKNOWN
        share = math.ceil(has / routers)
        others = max(0.0, worker.load - open_here.get(worker.worker_id, 0))
        found += max(share, has - int(others)) if routers > 1 else has
    return max(1, found)
