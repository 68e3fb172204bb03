"""Model growth: the layers of a shallow model, stacked.

Works on named tensors, so that weights, router biases, and an optimizer's moments and counters grow alike.
"""

from __future__ import annotations

import re

from torch import Tensor

LAYER = re.compile(r"(?<=\blayers\.)\d+(?=\.)")


def depth(tensors: dict[str, Tensor]) -> int:
    """Returns the number of layers that the names tell of."""
    return 1 + max((int(found[0]) for name in tensors if (found := LAYER.search(name))), default=-1)


def stacked(tensors: dict[str, Tensor], factor: int) -> dict[str, Tensor]:
    """Returns all tensors, with layer i of n also as layers i + n, i + 2n, ...; what belongs to no layer is kept."""
    layers = depth(tensors)
    grown: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if found := LAYER.search(name):
            for again in range(factor):
                grown[LAYER.sub(str(int(found[0]) + again * layers), name, count=1)] = value.clone()
        else:
            grown[name] = value
    return grown
