"""Counts spikes of the loss, and how long the run needs to recover from each."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW = 32  # losses that tell what is usual
MARGIN = 1.25  # a spike begins this much above their median, and above every one of them
RECOVERED = 1.05  # and ends where the loss is at most this much above it
_COUNT, _STEPS, _USUAL, _SEEN = range(4)


class Spikes:
    """`count` spikes so far; `steps` of the run were inside one. The median does not move during a spike."""

    def __init__(self) -> None:
        self.recent = torch.zeros(WINDOW, dtype=torch.float64)
        self.counters = torch.zeros(4, dtype=torch.float64)  # spikes, steps in spikes, median before it or 0, losses

    @property
    def count(self) -> int:
        return int(self.counters[_COUNT])

    @property
    def steps(self) -> int:
        return int(self.counters[_STEPS])

    @property
    def inside(self) -> bool:
        return bool(self.counters[_USUAL])

    def see(self, loss: float) -> None:
        """Takes the loss of a step, which may be NaN."""
        if not self.inside and self.counters[_SEEN] >= WINDOW:
            median = float(self.recent.median())
            if not loss <= max(MARGIN * median, float(self.recent.max())):
                self.counters[_COUNT] += 1
                self.counters[_USUAL] = median
        if self.inside:
            self.counters[_STEPS] += 1
            if loss <= RECOVERED * float(self.counters[_USUAL]):
                self.counters[_USUAL] = 0
            return
        self.recent[int(self.counters[_SEEN]) % WINDOW] = loss
        self.counters[_SEEN] += 1

    def state(self) -> dict[str, Tensor]:
        """Returns every tensor needed to resume."""
        return {"recent": self.recent, "counters": self.counters}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores the tensors that `state` returned."""
        for name, value in self.state().items():
            value.copy_(tensors[name])
