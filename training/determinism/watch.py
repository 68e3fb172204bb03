"""Finds silent corruption: gradients computed once more and compared bit by bit, and fingerprints of what rests.

At every `interval`-th step the gradient of each attention and of a sampled share of experts is computed twice, together
with the output it belongs to, and one padded group's whole forward and backward pass is done again. Weights and
optimizer state keep fingerprints between an update and the next. The report's system computes the attention's gradient
twice, too (docs/longcat-flash.md, Training).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from threading import Lock

import torch
from torch import Tensor

from training.determinism.faults import Faults
from training.determinism.recorded import Recorded, bits_of


class CorruptionFound(RuntimeError):
    """Something has other bits than when it was computed. Nothing was written: the last checkpoint is from before."""


def fingerprint(tensor: Tensor) -> Tensor:
    """Returns the sum of the tensor's bits as integers, which every flip of one bit changes."""
    bits = bits_of(tensor).view(-1)
    if bits.element_size() == 4 and not len(bits) % 2:
        bits = bits.view(torch.int64)
    return bits.sum(dtype=torch.int64)


@dataclass
class Watch:
    """What is compared, and how often. An interval of 0 compares nothing."""

    interval: int = 0
    expert_share: float = 0.125
    faults: Faults | None = None
    compared: dict[str, int] = field(default_factory=dict)  # how often, by kind
    due: bool = False
    step: int = 0
    _rest: dict[str, Tensor] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def begin(self, step: int) -> None:
        """Called at the beginning of each step."""
        self.step = step
        self.due = bool(self.interval) and step % self.interval == 0
        if self.faults:
            self.faults.begin(step)

    @property
    def active(self) -> bool:
        """Whether ops have to be recorded in this step."""
        return self.due or self.faults is not None

    def computed(self, done: Recorded, kind: str, where: str) -> Recorded:
        """Called behind the forward pass of an op: `kind` is attention or expert."""
        if self.faults:
            self.faults.reach(f"{kind} output", where, done.output)
        return done

    def gradients(self, done: Recorded, grad: Tensor, kind: str, where: str) -> tuple[Tensor, ...]:
        """Returns the gradients of an op's inputs, compared if it is their turn. Raises CorruptionFound."""
        found = done.gradients(grad)
        if self.faults:
            self.faults.reach(f"{kind} gradient", where, found[0])
        if self.due and (kind != "expert" or self._sampled(where)):
            self.count(kind)
            if different := done.differences(grad, found):
                raise CorruptionFound(f"step {self.step}: {where}: computed again, other bits: {', '.join(different)}")
        return found

    def _sampled(self, where: str) -> bool:
        return Random(f"{self.step} {where}").random() < self.expert_share

    def count(self, kind: str) -> None:
        with self._lock:
            self.compared[kind] = self.compared.get(kind, 0) + 1

    def rest(self, tensors: dict[str, Tensor]) -> None:
        """Remembers what must not change until `verify`."""
        if self.interval:
            self._rest = {name: fingerprint(tensor) for name, tensor in tensors.items()}

    def verify(self, tensors: dict[str, Tensor]) -> None:
        """Raises CorruptionFound when a tensor has changed since `rest`."""
        if not self._rest:
            return
        names = list(self._rest)
        now = torch.stack([fingerprint(tensors[name]) for name in names])
        then = torch.stack([self._rest[name] for name in names])
        self.count("at rest")
        changed = [name for name, differs in zip(names, (now != then).tolist(), strict=True) if differs]
        if changed:
            raise CorruptionFound(f"step {self.step}: changed between two steps: {', '.join(changed)}")
