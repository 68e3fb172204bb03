"""Prompts: tokens per second of the devices that compute them, and the time of one prompt.

A prompt's rows are many, so products are bound by operations and not by weights. Experts' rows travel while others
compute.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.planner.device import Device, Link, side_by_side
from services.planner.exchange import exchange
from services.planner.serving import Serving
from services.planner.shape import Shape

# Both by hand, with the two prefill rows in view that docs/planner.md calls fitted.
GROUPED_SHARE = 0.6  # of the peak that products reach beside the device's own efficiency: quantising, padding
EXPANDED_SHARE = 0.3  # of the absorbed form's operations that scores take where latents are expanded for a prompt


@dataclass(frozen=True, slots=True)
class Prefill:
    """Per token and device: seconds of computation and of the exchange, and both together."""

    compute_s: float
    exchange_s: float
    total_s: float

    @property
    def tokens_s(self) -> float:
        return 1 / self.total_s


def token_flops(shape: Shape, context: float) -> tuple[float, float]:
    """Operations of one prompt token in products, and in attention to the `context` tokens before it."""
    layer = shape.sublayers * (shape.attention.projected + shape.dense_params) + shape.gate_params
    layer += int(shape.ffn_choices * shape.expert_params) + shape.shared_params
    products = 2.0 * (shape.layers * layer + shape.plain_layers * shape.plain_params)
    sublayers = shape.layers * shape.sublayers + shape.plain_layers
    each = shape.attention.key_flops * (EXPANDED_SHARE if shape.attention.rope else 1.0)
    index = 2.0 * shape.attention.index_heads * shape.attention.index_width * context if shape.attention.kept else 0.0
    return products, sublayers * shape.attention.keys(context) * each + index * (shape.layers + shape.plain_layers)


def prefill(shape: Shape, length: float, serving: Serving, device: Device, link: Link, devices: float) -> Prefill:
    """Prompts of `length` tokens, in chunks large enough to fill a device, over so many devices together."""
    products, keys = token_flops(shape, length / 2)
    peak = device.gemm_flops(serving.dense_dtype) * device.factors.efficiency * GROUPED_SHARE
    attention = keys / ((device.attention_flops or device.gemm_flops("bf16")) * device.factors.efficiency)
    compute = products / peak + attention
    trip = exchange(shape, 1.0, devices, serving)
    share = serving.skew(devices, shape.experts / devices) / (link.bytes_s * device.factors.efficiency)
    wire = shape.layers * (trip.out_bytes + trip.back_bytes) * share if devices > 1 else 0.0
    loss = device.factors.overlap_loss if serving.overlap != "none" or shape.shortcut else 1.0
    return Prefill(compute, wire, side_by_side(compute, wire, loss))
