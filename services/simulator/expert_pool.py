"""How long a layer's experts take: its slowest worker, by the placement, what tokens choose, and who is slow or gone.

The policy's table says who has which experts. What the pool takes is computed when one of these changes, for a few
numbers of rows; in between it is interpolated.
Legend: L layers; E experts of a layer; W workers; G numbers of rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import numpy as np

from services.planner import experts
from services.planner.exchange import choices_of
from services.planner.shape import BYTES
from services.router.placement.load import Floats
from services.router.placement.table_view import TableView
from services.simulator.deployment import Deployment

GRID = tuple(float(4**power) for power in range(9))  # rows of a launch, 1 to 65,536


class ExpertPool:
    """`table`: who has what; `share_LE`: of a layer's rows; `slow`: times as long that a worker takes, `link`: that its
    link does; `dead`: workers whose experts do not answer, or are not asked."""

    def __init__(self, deployment: Deployment, table: TableView, share_LE: Floats) -> None:
        self._d = deployment
        self.table, self.share_LE = table, share_LE
        self.slow: dict[str, float] = {}
        self.link: dict[str, float] = {}
        self.dead: set[str] = set()
        self._answering: list[str] = []
        self.workers = 1  # that answer
        self.skew = 1.0  # of the fullest worker's rows over the mean, by layers; slow links included
        self.rows = 1.0  # of a launch, as steps ask for them now
        self.seconds_G: list[float] = []
        self._placed_LEW: Floats = np.zeros((0, 0, 0))
        self._share_LE = self._load_LW = np.zeros((0, 0))
        self.update()

    @property
    def lost(self) -> bool:
        """Whether some expert has no worker that answers."""
        return bool((self._placed_LEW.sum(axis=2) == 0).any())

    def update(self) -> None:
        """To be called after any change."""
        alive = self._answering = [worker_id for worker_id in self.table.worker_ids if worker_id not in self.dead]
        self.workers = max(1, len(alive))
        columns = self.table.columns(alive).reshape(self.table.layers, self.table.experts, -1)
        self._placed_LEW = columns.astype(np.float64)
        copies_LE = np.maximum(self._placed_LEW.sum(axis=2), 1.0)
        share_LE = self.share_LE / copies_LE
        link_W = _times(self.link, alive)
        load_LW = np.matmul(share_LE[:, None, :], self._placed_LEW)[:, 0]
        self.skew = float((load_LW * link_W).max(axis=1).mean()) * max(1, len(alive)) if alive else 1.0
        self._share_LE, self._load_LW = share_LE, load_LW
        busy_GLW = [self._busy_LW(rows) for rows in GRID]
        self.seconds_G = [float(busy_LW.max(axis=1).mean()) if busy_LW.size else 0.0 for busy_LW in busy_GLW]

    def call_s(self, rows: float) -> dict[str, float]:
        """Seconds that each worker that answers takes for a layer, on average, of a launch with so many rows."""
        return dict(zip(self._answering, self._busy_LW(rows).mean(axis=0).tolist(), strict=True))

    def layer_s(self, rows: float) -> float:
        """Seconds of a layer for a launch with the rows of so many tokens together."""
        place = min(max(bisect_right(GRID, rows) - 1, 0), len(GRID) - 2)
        rows = max(rows, GRID[0])
        part = (rows - GRID[place]) / (GRID[place + 1] - GRID[place])
        return self.seconds_G[place] + part * (self.seconds_G[place + 1] - self.seconds_G[place])

    def _busy_LW(self, rows: float) -> Floats:
        """As `services.planner.experts.layer_s`, for each layer and worker."""
        d, device, load_LW = self._d, self._d.expert_device, self._load_LW
        choices = rows * choices_of(d.shape, d.serving)
        hit_LE = -np.expm1(choices * np.log1p(-np.minimum(self._share_LE, 1 - 1e-12)))
        touched_LW = np.matmul(hit_LE[:, None, :], self._placed_LEW)[:, 0]
        params, value_bytes = d.shape.expert_params, BYTES[d.serving.expert_dtype]
        read_LW = touched_LW * params * value_bytes / device.memory_bytes_s
        flops_LW = 2 * choices * load_LW * params / device.gemm_flops(d.serving.expert_dtype)
        busy_LW = np.maximum(read_LW, flops_LW) / device.factors.efficiency
        busy_LW = busy_LW + experts.OPS * device.factors.op_s + touched_LW * device.factors.touch_s
        found: Floats = busy_LW * _times(self.slow, self._answering)
        return found


def _times(slow: Mapping[str, float], worker_ids: list[str]) -> Floats:
    return np.array([slow.get(worker_id, 1.0) for worker_id in worker_ids])
