"""Expert workers that compute wrongly: a bit flips in what they were sent, in their weights, or in what they answer.

Legend: A (row, expert) assignments.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import torch
from support.expert_workers import Worker
from torch import Tensor

from services.expert_worker.batcher import Compute

KINDS = ("answered row", "sent row", "weight")


def flip(tensor: Tensor, place: int = 0) -> Tensor:
    """Makes one bf16 value 16 times as large or small; the same once more undoes it. Returns the tensor."""
    tensor.view(-1).view(torch.int16)[place] ^= 1 << 9
    return tensor


class FlippingExperts:
    """Put around a worker's computation; `every` call of so many is wrong, 0 = none is."""

    def __init__(self) -> None:
        self.every, self.kind = 0, KINDS[0]
        self.worker: Worker | None = None
        self.calls, self.wrong = count(1), 0

    def around(self, compute: Compute) -> Compute:
        def wrongly(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
            if not self.every or next(self.calls) % self.every:
                return compute(layer, x_RD, row_A, expert_A)
            self.wrong += 1
            if self.kind == "sent row":
                return compute(layer, flip(x_RD.clone(), int(row_A[0]) * x_RD.shape[1]), row_A, expert_A)
            if self.kind == "answered row":
                return flip(compute(layer, x_RD, row_A, expert_A).clone())
            assert self.worker is not None
            weights = self.worker.experts.regions[layer, int(expert_A[0])].tensors[-1]
            return self._with(weights, lambda: compute(layer, x_RD, row_A, expert_A))

        return wrongly

    @staticmethod
    def _with(weights: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        flip(weights)
        try:
            return compute()
        finally:
            flip(weights)
