"""What balancing has to keep: workers' counts, their hosts, and who may take what. Pure.

Legend: L layers; E experts of a layer; W workers; H hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.router.placement.load import Floats
from services.router.placement.quotas import Rooms
from services.router.placement.table_view import Placed

LEAST, MOST = 1 / 3, 1.125  # of an equal share of experts: within it balancing keeps a worker's count


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """`most_W`, `least_W`: experts of all layers that a worker may have.

    `stays_W`: does not drain; `gains_W`: may be given experts. `host_W`: the number of its host.
    """

    speed_W: Floats
    most_W: NDArray[np.int64]
    least_W: NDArray[np.int64]
    stays_W: Placed
    gains_W: Placed
    host_W: NDArray[np.int64]

    @classmethod
    def of(
        cls, rooms: Rooms, equal_W: Sequence[int], frozen_W: Sequence[bool], speed_W: Floats, host_W: Sequence[int]
    ) -> Limits:
        share_W = np.array(equal_W, dtype=np.int64)
        stays_W = ~np.array(rooms.draining_W, dtype=np.bool_)
        most_W = np.minimum(np.array(rooms.capacity_W, dtype=np.int64), np.ceil(MOST * share_W).astype(np.int64))
        least_W = np.ceil(LEAST * share_W).astype(np.int64)
        gains_W = stays_W & ~np.array(frozen_W, dtype=np.bool_)
        return cls(speed_W, most_W, least_W, stays_W, gains_W, np.array(host_W, dtype=np.int64))

    @property
    def hosts(self) -> int:
        return int(self.host_W.max()) + 1

    @property
    def hosts_shared(self) -> bool:
        return self.hosts < len(self.host_W)

    def on_hosts(self, placed_LEW: Placed) -> NDArray[np.int16]:
        """How many replicas of each expert a host has, [L, E, H]."""
        layers, experts, _ = placed_LEW.shape
        found_LEH = np.zeros((layers, experts, self.hosts), dtype=np.int16)
        for worker, host in enumerate(self.host_W.tolist()):
            found_LEH[:, :, host] += placed_LEW[:, :, worker]
        return found_LEH

    def holder_to_drop(self, placed_W: Placed, load_W: Floats) -> int:
        """The worker that a replica is taken from: one whose host has another, then the one with the most to do."""
        holders = np.flatnonzero(placed_W)
        on_host_H = np.bincount(self.host_W[holders], minlength=self.hosts)
        doubled = on_host_H[self.host_W[holders]] > 1
        return int(holders[np.lexsort((-load_W[holders], ~doubled))[0]])


def loads(placed_LEW: Placed, rows_LE: Floats, speed_W: Floats) -> Floats:
    """How long each worker takes for a second's rows of each layer, [L, W]; replicas of an expert share its rows."""
    share_LE = rows_LE / np.maximum(placed_LEW.sum(axis=2), 1)
    found_LW: Floats = np.matmul(share_LE[:, None, :], placed_LEW)[:, 0] / speed_W
    return found_LW
