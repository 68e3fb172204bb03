"""Grouped products of the experts that one device holds, for one layer.

Legend: t choices of FFN experts that arrive at the device, e experts of the layer that it holds.
"""

from __future__ import annotations

import math

from services.planner.device import Device
from services.planner.shape import BYTES, Shape
from services.planner.work import Work

OPS = 3  # gate and up, activation and quantise, down


def touched(experts: float, choices: float) -> float:
    """How many of the experts get a row when so many choices are spread over them evenly."""
    if experts <= 0:
        return 0.0
    if experts <= 1:
        return experts * (1.0 if choices >= 1 else choices)
    return experts * (1 - math.pow(1 - 1 / experts, choices))


def grouped(shape: Shape, choices: float, held: float, dtype: str, skew: float = 1.0) -> Work:
    """The products of one layer on one device. `skew`: the most loaded device's rows over the mean ones'."""
    rows = choices * skew
    weights = touched(held, rows) * shape.expert_params * BYTES[dtype]
    return Work(weights, 2 * rows * shape.expert_params, dtype, OPS)


def layer_s(
    shape: Shape, choices: float, held: float, shared_rows: float, dtype: str, device: Device, skew: float = 1.0
) -> float:
    """Seconds of a layer's experts on one device; the expert that every token uses is one more in the same launch."""
    own = grouped(shape, choices, held, dtype, skew)
    weights = shape.shared_params * BYTES[dtype] if shared_rows else 0.0
    flops = 2 * shared_rows * shape.shared_params
    found = touched(held, choices * skew) * device.factors.touch_s
    return Work(own.read_bytes + weights, own.flops + flops, dtype, OPS).seconds(device) + found
