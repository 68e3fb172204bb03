"""One layer's call as it was answered, kept to be computed again.

Legend: T tokens, A (row, expert) assignments, N of them that one worker has answered, W workers, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from caracal_kernels.plan_rows import Plan
from numpy.typing import NDArray
from torch import Tensor

from services.router.dispatch.shadow_share import mixed
from services.router.dispatch.table import Key

MOST_ASSIGNMENTS = 512  # of a call; of a larger one that many that follow one another
Numbers = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Answered:
    """What one worker has answered; assignments ascend by (expert, token)."""

    key: Key
    token_N: Numbers
    expert_N: Numbers
    y_ND: Tensor


@dataclass(frozen=True, slots=True)
class KeptCall:
    """A call's input, plan and replies. `y_AD` are those of the assignments from `first` on."""

    keys: tuple[Key, ...]
    step: int
    layer: int
    h_TD: Tensor
    plan: Plan
    y_AD: Tensor
    first: int

    @classmethod
    def of(cls, keys: tuple[Key, ...], step: int, layer: int, h_TD: Tensor, plan: Plan, y_AD: Tensor) -> KeptCall:
        """Nobody writes to these tensors later, except on a GPU, where they may belong to a captured graph."""
        first = 0
        if len(y_AD) > MOST_ASSIGNMENTS:
            first = mixed(step, ~layer) % (len(y_AD) - MOST_ASSIGNMENTS + 1)
            y_AD = y_AD[first : first + MOST_ASSIGNMENTS].clone()
        return cls(keys, step, layer, h_TD if h_TD.device.type == "cpu" else h_TD.clone(), plan, y_AD, first)

    def parts(self) -> Iterator[Answered]:
        """The assignments of each worker that has any here."""
        row, row_count_W, row_A, expert_A, count_W = (each.cpu().numpy() for each in self.plan[:5])
        begins, row_begins = ([0, *accumulate(each.tolist())] for each in (count_W, row_count_W))
        for worker, key in enumerate(self.keys):
            begin, end = max(self.first, begins[worker]), min(self.first + len(self.y_AD), begins[worker + 1])
            if begin < end:
                token_N = row[row_begins[worker] + row_A[begin:end]]
                y_ND = self.y_AD[begin - self.first : end - self.first]
                yield Answered(key, token_N, expert_A[begin:end], y_ND)
