"""What balancing has to keep: workers' counts, their hosts, and who may take what. Pure.

Legend: L layers; E experts of a layer; W workers; H hosts; N the workers that have an expert.
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
SPARE = 64  # a worker may exceed its capacity by one part in so many, and by one expert, while it exchanges experts


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """`most_W`, `least_W`: experts of all layers that a worker may have.

    `stays_W`: does not drain; `gains_W`: may be given experts. `host_W`: the number of its host.
    `holds_W`: experts that it may have while some are exchanged, old and new ones together: what it gains is loaded
    before what it loses is let go.
    """

    speed_W: Floats
    most_W: NDArray[np.int64]
    least_W: NDArray[np.int64]
    stays_W: Placed
    gains_W: Placed
    host_W: NDArray[np.int64]
    holds_W: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        rooms: Rooms,
        fewest_W: Sequence[int],
        most_W: Sequence[int],
        frozen_W: Sequence[bool],
        speed_W: Floats,
    ) -> Limits:
        """Limits around equal shares: `fewest_W` without replicas of hot experts, `most_W` with all that there may be.

        No worker is emptied: it would look new.
        """
        stays_W = ~np.array(rooms.draining_W, dtype=np.bool_)
        above_W = np.ceil(MOST * np.array(most_W, dtype=np.float64)).astype(np.int64)
        below_W = np.ceil(LEAST * np.array(fewest_W, dtype=np.float64)).astype(np.int64)
        capacity_W = np.array(rooms.capacity_W, dtype=np.int64)
        return cls(
            speed_W,
            np.minimum(capacity_W, above_W),
            np.maximum(below_W, 1),
            stays_W,
            stays_W & ~np.array(frozen_W, dtype=np.bool_),
            np.array(rooms.host_W, dtype=np.int64),
            capacity_W + np.maximum(1, capacity_W // SPARE),
        )

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

    def without_one(self, placed_W: Placed, load_W: Floats, rows: float) -> tuple[int, Floats]:
        """Which worker to take a replica from, and the workers' loads then; `rows` are the expert's.

        One whose host has another replica comes first, then that after which the slowest holder has the least to do.
        """
        holders = np.flatnonzero(placed_W)
        on_host_H = np.bincount(self.host_W[holders], minlength=self.hosts)
        alone_N = on_host_H[self.host_W[holders]] == 1
        share, more = rows / len(holders), rows / max(len(holders) - 1, 1)
        left_NW = placed_W & (np.arange(len(placed_W)) != holders[:, None])
        after_NW = load_W + (left_NW * more - placed_W * share) / self.speed_W
        best = int(np.lexsort((after_NW[:, holders].max(axis=1), alone_N))[0])
        return int(holders[best]), after_NW[best]


def loads(placed_LEW: Placed, rows_LE: Floats, speed_W: Floats) -> Floats:
    """How long each worker takes for a second's rows of each layer, [L, W]; replicas of an expert share its rows."""
    share_LE = rows_LE / np.maximum(placed_LEW.sum(axis=2), 1)
    found_LW: Floats = np.matmul(share_LE[:, None, :], placed_LEW)[:, 0] / speed_W
    return found_LW
