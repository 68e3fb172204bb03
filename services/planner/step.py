"""A decode step: its layers, those without experts, drafts, the head, and what it costs outside them."""

from __future__ import annotations

from dataclasses import dataclass

from services.planner import attention, dense
from services.planner.device import Device, Link
from services.planner.layer import Layer, Pools, colocated, separate
from services.planner.serving import Load, Serving
from services.planner.shape import Shape
from services.planner.work import product

DRAFT_OPS = 24  # of one block, its join and its head


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of one decode step, and what it gives."""

    seconds: float
    layer: Layer
    tokens: float  # of one sequence
    sequences: float  # of one attention device

    @property
    def tpot_s(self) -> float:
        return self.seconds / self.tokens

    @property
    def user_tokens_s(self) -> float:
        return 1 / self.tpot_s

    @property
    def device_tokens_s(self) -> float:
        """Tokens per second of one attention device's sequences."""
        return self.sequences / self.tpot_s


def colocated_step(shape: Shape, load: Load, serving: Serving, device: Device, link: Link, devices: int) -> Step:
    layer = colocated(shape, load, serving, device, link, devices)
    return _step(shape, load, serving, device, layer)


def separate_step(shape: Shape, load: Load, serving: Serving, pools: Pools) -> Step:
    return _step(shape, load, serving, pools.attention_device, separate(shape, load, serving, pools))


def _step(shape: Shape, load: Load, serving: Serving, device: Device, layer: Layer) -> Step:
    total = shape.layers * layer.total + outside_s(shape, load, serving, device)
    return Step(total, layer, serving.tokens_per_step, load.sequences)


def outside_s(shape: Shape, load: Load, serving: Serving, device: Device) -> float:
    """What a step takes apart from the layers that have experts."""
    rows, factors = load.rows(serving), device.factors
    seconds = factors.step_s + load.sequences * factors.row_s
    seconds += dense.head(shape, rows, serving.tp).seconds(device)
    if shape.plain_layers:
        a = shape.attention
        plain = attention.qkv(a, rows, serving.dense_dtype, serving.tp).seconds(device)
        plain += attention.core_s(a, load.sequences, rows, load.context, serving.kv_dtype, device, serving.tp)
        plain += attention.out(a, rows, serving.dense_dtype, serving.tp).seconds(device)
        seconds += shape.plain_layers * (
            plain + dense.plain_ffn(shape, rows, serving.dense_dtype, serving.tp).seconds(device)
        )
    for _ in range(serving.drafts):
        block = product(load.sequences, shape.draft_params / serving.tp, "bf16", 2.0, DRAFT_OPS)
        seconds += block.seconds(device) + dense.head(shape, load.sequences, serving.tp).seconds(device)
    return seconds
