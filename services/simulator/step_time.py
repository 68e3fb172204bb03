"""How long a step of an attention worker takes, beside all others that use the same experts.

The planner's formula for separate pools (`services/planner/layer.py`), with the experts' part from the pool as it is
now, and the rows that other workers have now. The slowest link and the slowest expert worker of a layer are taken for
one and the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.planner.device import side_by_side
from services.simulator.deployment import Deployment
from services.simulator.expert_pool import ExpertPool
from services.simulator.own_time import OwnTimes


@dataclass(frozen=True, slots=True)
class StepWork:
    """Rows of decodes and of prompts, and keys that they attend to."""

    decodes: int
    prompt_rows: int
    decode_keys: float
    prompt_keys: float


class StepTimes:
    """`callers`: attention workers that have something to do, `rows`: of a step of them, on average."""

    def __init__(self, deployment: Deployment, pool: ExpertPool) -> None:
        self._d, self._pool = deployment, pool
        self._own = OwnTimes(deployment)
        self.callers, self.rows = 1, 0.0
        self.served_s = 0.0  # for which the step that was asked for last keeps expert workers busy, with its callers

    def seconds(self, work: StepWork) -> float:
        d, pool, loss = self._d, self._pool, self._d.device.factors.overlap_loss
        rows, callers = work.decodes + work.prompt_rows, max(1, self.callers)
        own = self._own.of(rows, pool.workers)
        crowd = max(1.0, callers / d.attention_cores) if d.attention_cores else 1.0  # on each core
        sublayers = d.shape.sublayers
        core = self._own.core_s(work.decodes, work.decode_keys, work.prompt_keys)
        attention, mlp = crowd * (own.projections + core), crowd * own.mlp
        first = attention + crowd * (own.gate + own.extra)
        window = sublayers * mlp + (sublayers - 1) * attention if d.shape.shortcut else 0.0
        busy = sublayers * (attention + mlp) + crowd * (own.gate + own.extra)
        ratio, link = callers / pool.workers, d.link
        fixed = 2 * (link.latency_s + own.trip.messages * link.message_s)
        rows_s = own.trip.out_s(link, ratio) + own.trip.back_s(link, ratio) - fixed
        travel = (fixed + pool.skew * rows_s) / d.device.factors.efficiency
        pool.rows = rows + (callers - 1) * self.rows
        best, best_served = float("inf"), 0.0
        for groups in range(1, min(d.serving.groups, callers) + 1):
            launch = pool.layer_s(rows + (callers / groups - 1) * self.rows)
            launch += callers / groups / pool.workers * own.messages
            chain = first + side_by_side(window, travel + launch, loss if window else 0.0)
            total = max(chain, busy, groups * launch)
            if total < best:
                best, best_served = total, groups * launch
        self.served_s = d.shape.layers * best_served / callers
        return crowd * self._own.outside_s(work.decodes) + d.shape.layers * best
