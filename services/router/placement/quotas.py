"""How many experts each worker is to have, and how many replicas each expert. Pure.

Legend: E experts of all layers, layer by layer; L layers; W workers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.router.placement.load import Floats

Counts = NDArray[np.int64]

LEAST, MOST = 0.25, 1.5  # of an equal share: quotas that lie between are kept; wider than what balancing makes


@dataclass(frozen=True, slots=True)
class Rooms:
    """What each worker may take: `capacity` experts; a draining one is emptied. `host_W`: the number of its host."""

    capacity_W: Sequence[int]
    draining_W: Sequence[bool]
    host_W: Sequence[int]

    @property
    def staying(self) -> list[int]:
        """Capacities of the workers that do not drain."""
        return [capacity for capacity, drains in zip(self.capacity_W, self.draining_W, strict=True) if not drains]

    @property
    def turn_W(self) -> list[int]:
        """How many workers of its host come before each: hosts take turns by it."""
        seen: Counter[int] = Counter()
        turns = []
        for host in self.host_W:
            turns.append(seen[host])
            seen[host] += 1
        return turns


def replica_counts(items: int, rooms: Rooms, replicas: int) -> Counts:
    """Returns how often each expert is placed: once before any twice; the first ones when capacity is short."""
    available = sum(rooms.staying)
    wanted_E = np.zeros(items, dtype=np.int64)
    once = min(items, sum(rooms.capacity_W))
    wanted_E[:once] = 1
    available -= once
    for _ in range(min(replicas, len(rooms.staying)) - 1):
        wanted_E[: max(0, available)] += 1
        available -= items
    return wanted_E


def kept_extras(have_E: Counts, base_E: Counts, rows_E: Floats, layers: int, extra: int, room: int) -> Counts:
    """Returns how many replicas above `base_E` each expert keeps of those it has.

    At most `extra` a layer and `room` in all; those of the hottest experts.
    """
    kept_E = np.zeros_like(base_E)
    more_E = np.maximum(have_E - base_E, 0)
    left_L = [extra] * layers
    experts = len(base_E) // layers
    more = np.flatnonzero(more_E)
    for item in more[np.argsort(-rows_E[more] / have_E[more], kind="stable")].tolist():
        layer = item // experts
        kept_E[item] = keeps = max(0, min(int(more_E[item]), left_L[layer], room))
        left_L[layer] -= keeps
        room -= keeps
    return kept_E


def equal_quotas(rooms: Rooms, total: int, counts: Sequence[int], weight_W: Sequence[int] | None = None) -> list[int]:
    """Returns each worker's share of `total` replicas: equal up to capacity, staying workers before draining ones.

    What does not divide goes to the workers with the most experts now, from host to host. With weights, shares are as
    these are.
    """
    capacity_W, draining_W = rooms.capacity_W, rooms.draining_W
    weight_W = weight_W or [1] * len(capacity_W)
    quota_W = [0] * len(capacity_W)
    turn_W = rooms.turn_W
    for draining in (False, True):
        open_ = [column for column, drains in enumerate(draining_W) if drains is draining]
        left = total - sum(quota_W)
        while full := _full(open_, capacity_W, weight_W, left):
            for column in full:
                quota_W[column] = capacity_W[column]
                left -= quota_W[column]
            open_ = [column for column in open_ if column not in full]
        if open_:
            whole = sum(weight_W[column] for column in open_)
            for column in open_:
                quota_W[column] = left * weight_W[column] // whole
            extra = left - sum(quota_W[column] for column in open_)
            for column in sorted(open_, key=lambda column: (-counts[column], turn_W[column]))[:extra]:
                quota_W[column] += 1
    return quota_W


def kept_quotas(
    rooms: Rooms, total: int, counts: Sequence[int], fewest_W: Sequence[int], most_W: Sequence[int]
) -> list[int]:
    """As `equal_quotas`, but workers keep what balancing has made of their shares.

    New workers get an equal share; what they take and what is missing is shared by how much the others have. All get an
    equal share if that gave one far less than `fewest_W` or far more than `most_W`.
    """
    equal_W = equal_quotas(rooms, total, counts)
    old = [column for column, count in enumerate(counts) if count and equal_W[column]]
    if not old:
        return equal_W
    have, due = sum(counts[column] for column in old), sum(equal_W[column] for column in old)
    new_W = [max(1, round(quota * have / due)) for quota in equal_W]
    quota_W = equal_quotas(rooms, total, counts, [counts[c] if c in old else new for c, new in enumerate(new_W)])
    # By what they are to have, not by what they have: else the same workers would get other quotas the next time.
    near = all(
        not share or max(1, int(LEAST * fewest)) <= quota <= math.ceil(MOST * most)
        for quota, share, fewest, most in zip(quota_W, equal_W, fewest_W, most_W, strict=True)
    )
    return quota_W if near else equal_W


def _full(open_: Sequence[int], capacity_W: Sequence[int], weight_W: Sequence[int], left: int) -> list[int]:
    whole = sum(weight_W[column] for column in open_)
    return [column for column in open_ if capacity_W[column] <= left * weight_W[column] // whole]
