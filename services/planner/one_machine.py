"""A step on one machine of CPU cores: one attention worker on one core, expert workers together on another."""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.planner.device import Device, Link
from services.planner.layer import Pools
from services.planner.serving import Load, Serving
from services.planner.shape import Shape
from services.planner.step import Step, separate_step

SERVING = Serving(
    dense_dtype="bf16",
    expert_dtype="bf16",
    kv_dtype="bf16",
    out_dtype="bf16",
    back_dtype="bf16",
    deduplicated=True,
    groups=1,
)


@dataclass(frozen=True, slots=True)
class Point:
    """A load on a cluster of one machine. `replicas`: of each expert, as its leader has chosen or was given them."""

    shape: Shape
    streams: int
    workers: int
    context: float = 64.0
    replicas: int = 1


def shared_core(device: Device, workers: int) -> Device:
    """What each of `workers` has of a core that they share: an n-th of all that it does."""
    factors = device.factors
    return replace(
        device,
        memory_bytes_s=device.memory_bytes_s / workers,
        flops={dtype: peak / workers for dtype, peak in device.flops.items()},
        factors=replace(factors, op_s=workers * factors.op_s, touch_s=workers * factors.touch_s),
    )


def step(point: Point, device: Device, link: Link) -> Step:
    """The step of a point."""
    pools = Pools(
        attention=1,
        experts=point.workers,
        attention_device=device,
        expert_device=shared_core(device, point.workers),
        link=link,
        replicas=point.replicas,
    )
    return separate_step(point.shape, Load(point.streams, point.context), SERVING, pools)
