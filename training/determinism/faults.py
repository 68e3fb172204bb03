"""A test hook: flips single bits where and when it is asked to, as a faulty core or memory would."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from threading import Lock

from torch import Tensor

from training.determinism.recorded import BITS

# What can be hit. Computed: outputs and gradients as an op leaves them. At rest: tensors that wait for their next use.
COMPUTED = ("attention output", "attention gradient", "expert output", "expert gradient", "dense output")
AT_REST = ("summed gradient", "weight", "optimizer state")


@dataclass
class Faults:
    """Flips a bit of one tensor of a kind in steps `first` to `last`, once a step: which, the seed decides."""

    kind: str
    first: int
    last: int
    seed: int = 0
    among: int = 2  # how many of the tensors of a kind that a step computes may be hit
    hits: list[str] = field(default_factory=list)  # what was flipped
    step: int = -1
    _after: int = 0  # tensors of the kind to let pass in this step
    _lock: Lock = field(default_factory=Lock)

    def begin(self, step: int) -> None:
        self.step = step
        self._after = Random(f"{self.seed} {step} {self.kind}").randrange(self.among)

    def reach_one(self, kind: str, tensors: dict[str, Tensor]) -> None:
        """Flips a bit of one of the tensors, whose kind is at rest, if it is their turn."""
        name = Random(f"{self.seed} {self.step} name").choice(sorted(tensors)) if tensors else ""
        if name:
            self._after = 0 if kind == self.kind else self._after
            self.reach(kind, name, tensors[name])

    def reach(self, kind: str, where: str, tensor: Tensor) -> None:
        """Flips a bit of the tensor if it is its turn."""
        if kind != self.kind or not self.first <= self.step <= self.last:
            return
        with self._lock:
            self._after -= 1
            if self._after != -1:
                return
        flip(tensor, Random(f"{self.seed} {self.step} {where}"))
        self.hits.append(f"step {self.step}: {where}")


def flip(tensor: Tensor, rng: Random) -> None:
    """Flips a random bit of a random element, behind autograd's back."""
    size = tensor.element_size()
    bits = tensor.data.view(BITS[size]).view(-1) if tensor.is_contiguous() else None
    assert bits is not None, "the tensor has holes"
    bit = rng.randrange(8 * size)
    mask = 1 << bit if bit < 8 * size - 1 else -(1 << bit)
    bits[rng.randrange(len(bits))] ^= mask
