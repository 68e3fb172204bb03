"""An op with what its backward pass needs, so that it can be computed once more and compared bit by bit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits_of(tensor: Tensor) -> Tensor:
    """Returns the tensor's bits as integers, in which a NaN equals itself and -0 does not equal 0."""
    return tensor.detach().contiguous().view(BITS[tensor.element_size()])


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(bits_of(one), bits_of(other))


class Recorded:
    """The op's output, computed at once. Gradients of the inputs come from a graph of its own."""

    def __init__(self, op: Callable[..., Tensor], *inputs: Tensor) -> None:
        self.op = op
        self.inputs = tuple(tensor.detach().requires_grad_() for tensor in inputs)
        with torch.enable_grad():
            self._output = op(*self.inputs)
        self.output = self._output.detach()

    def gradients(self, grad: Tensor) -> tuple[Tensor, ...]:
        """Returns the gradients of the inputs for that of the output; may be called once."""
        found = torch.autograd.grad(self._output, self.inputs, grad)
        return tuple(found)

    def differences(self, grad: Tensor, first: tuple[Tensor, ...]) -> list[str]:
        """Computes both passes once more from the inputs, and names what has other bits than the first time."""
        again = Recorded(self.op, *self.inputs)
        found = [] if same_bits(again.output, self.output) else ["output"]
        second = again.gradients(grad)
        return found + [
            f"gradient of input {number}"
            for number, (one, two) in enumerate(zip(first, second, strict=True))
            if not same_bits(one, two)
        ]
