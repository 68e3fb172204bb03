"""How a model is served: dtypes, drafts, balance; and the load of one attention worker in a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.planner.shape import Overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What does not depend on the devices. `unevenness`: the deviation of experts' loads over their mean."""

    dense_dtype: str = "fp8"
    expert_dtype: str = "fp8"
    kv_dtype: str = "bf16"
    out_dtype: str = "fp8"  # of rows to experts
    back_dtype: str = "bf16"
    drafts: int = 0
    acceptance: float = 0.8
    unevenness: float = 0.0
    deduplicated: bool = False
    zeros_stay: bool = True
    summed: bool = False  # a worker adds its experts' rows of a token and sends one back
    tp: int = 1  # of attention and its cache
    mlp_tp: int = 1  # of the dense MLPs alone
    overlap: Overlap = "none"  # of a colocated deployment
    micro_batches: int = 1  # of separate pools, at most
    groups: int = 3  # of attention workers that use the experts in turn, at most

    def skew(self, devices: float, held: float) -> float:
        """The rows of the most loaded of `devices` over the mean, if each has `held` experts drawn at random."""
        if devices <= 1 or held <= 0:
            return 1.0
        return min(devices, 1 + self.unevenness * math.sqrt(2 * math.log(devices) / held))

    @property
    def tokens_per_step(self) -> float:
        """How many tokens of a sequence a step gives: the drawn one and the drafts that were right before it."""
        return sum(self.acceptance**n for n in range(self.drafts + 1))


@dataclass(frozen=True, slots=True)
class Load:
    """One attention worker's part of a decode step; a worker is `tp` devices."""

    sequences: float
    context: float  # tokens before the new ones, on average

    def rows(self, serving: Serving) -> float:
        return self.sequences * (1 + serving.drafts)

    def sent_rows(self, serving: Serving) -> float:
        """Rows that one device of a tensor-parallel group sends: the group shares them out."""
        return self.rows(serving) / serving.tp
