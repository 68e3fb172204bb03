"""What expert workers have measured: rows of each expert, and how fast each worker is. Pure.

Legend: E experts of all layers, layer by layer; W workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SLOWEST, FASTEST = 0.1, 10.0  # speeds are taken for no more extreme than that


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Assignments per second of each expert, `rows_E`, all replicas together.

    `window_s`: `rows_E * window_s` assignments were counted; of rates that decay exponentially, twice the time
    constant. It says how noisy they are. `speed`: rows per busy second of a worker over those of the median worker, by
    worker id, averaged over minutes; 1 where absent.
    """

    rows_E: Floats
    window_s: float
    speed: Mapping[str, float] = field(default_factory=dict)

    def rows(self, items: int) -> Floats:
        """The rates of `items` experts, zero for one that is negative or no number. Raises ValueError by the shape."""
        rows_E = np.asarray(self.rows_E, dtype=np.float64)
        if rows_E.shape != (items,):
            raise ValueError(f"the load is of shape {rows_E.shape}, the model has {items} experts")
        return np.where(np.isfinite(rows_E) & (rows_E > 0), rows_E, 0.0)

    def speeds(self, worker_ids: Sequence[str]) -> Floats:
        """The workers' speeds, [W], of `SLOWEST` to `FASTEST`; 1 for one that is no number or not positive."""
        speed_W = np.array([self.speed.get(worker_id, 1.0) for worker_id in worker_ids], dtype=np.float64)
        return np.clip(np.where(np.isfinite(speed_W) & (speed_W > 0), speed_W, 1.0), SLOWEST, FASTEST)

    @property
    def counted_s(self) -> float:
        """`window_s`, next to nothing when it is no positive number: then all is noise, and nothing moves."""
        return self.window_s if np.isfinite(self.window_s) and self.window_s > 0 else 1e-9
