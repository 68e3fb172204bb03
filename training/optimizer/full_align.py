"""Adam LR Full Align: rates and initial variances of a narrow proxy, for a model that is s = `scale` times as wide.

All sizes but the number of experts, the vocabulary and a head's dims grow by s. Embedding and norms keep η and σ²;
hidden matrices, routers and unembedding, whose inputs grow in number, get η / s and σ² / s.
"""

from __future__ import annotations

from torch import Tensor

from training.model.longcat_flash import Deviation
from training.recipe import AdamRecipe


def reads_width(name: str, value: Tensor) -> bool:
    """Returns whether each output of the parameter sums over inputs whose number grows with the width."""
    return value.ndim > 1 and not name.startswith("embed")


def rate_of(name: str, value: Tensor, adam: AdamRecipe) -> float:
    """Returns the learning rate of a parameter, before the schedule's factor."""
    return adam.rate / adam.scale if adam.aligned and reads_width(name, value) else adam.rate


def deviation_of(adam: AdamRecipe) -> Deviation:
    """Returns the deviations at the beginning. None is zero: the variance that is swept is that of every matrix."""
    # Of a proxy's σ² times the inputs of this model, which are s times those of the proxy.
    variance = adam.variance if adam.aligned else adam.variance * adam.scale

    def deviation(name: str, value: Tensor) -> float:
        return (variance / value.shape[-1]) ** 0.5 if reads_width(name, value) else 1.0

    return deviation
