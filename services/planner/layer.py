"""One layer's time, part by part, where every device has both attention and experts, and where they are apart.

Colocated expert parallelism comes without overlap, with two batches that overlap (TBO), or with the shortcut's
single-batch overlap (SBO, LongCat-Flash's report, section 6.1). Separate pools work as Caracal does, or with
micro-batches as published systems do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.planner import attention, dense, experts
from services.planner.device import Device, Link, side_by_side
from services.planner.exchange import choices_of, exchange
from services.planner.serving import Load, Serving
from services.planner.shape import Shape
from services.planner.work import Work

EXCHANGE_OPS = 4  # packing, sending, waiting, adding


@dataclass(frozen=True, slots=True)
class Layer:
    """Seconds. `attention`: of one sublayer; `total`: what a step takes; `busy`: what an attention device computes."""

    attention: float
    dispatch: float
    experts: float
    combine: float
    dense: float
    total: float
    busy: float = 0.0
    expert_busy: float = 0.0  # share of the time for which an expert device computes
    groups: int = 1
    micro_batches: int = 1

    @property
    def exposed(self) -> float:
        return max(0.0, self.total - self.busy)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an attention device computes for one layer, in seconds: each sublayer in three parts."""

    qkv: float
    core: float
    out: float
    mlp: float
    gate: float

    @property
    def attention(self) -> float:
        return self.qkv + self.core + self.out


def _parts(shape: Shape, load: Load, serving: Serving, device: Device) -> _Parts:
    rows, a = load.rows(serving), shape.attention
    core = attention.core_s(a, load.sequences, rows, load.context, serving.kv_dtype, device, serving.tp)
    mlp_tp = max(serving.tp, serving.mlp_tp)
    return _Parts(
        qkv=attention.qkv(a, rows, serving.dense_dtype, serving.tp).seconds(device),
        core=core,
        out=attention.out(a, rows, serving.dense_dtype, serving.tp).seconds(device),
        mlp=dense.mlp(shape, rows, serving.dense_dtype, mlp_tp).seconds(device),
        gate=dense.gate(shape, rows).seconds(device),
    )


def colocated(shape: Shape, load: Load, serving: Serving, device: Device, link: Link, devices: int) -> Layer:
    """A layer over `devices` that each have attention and their share of the experts."""
    parts, loss = _parts(shape, load, serving, device), device.factors.overlap_loss
    rows = load.sent_rows(serving)
    trip = exchange(shape, rows, devices, serving)
    away = 1.0 if devices > 1 else 0.0
    held = shape.experts / devices
    skew = serving.skew(devices, held)
    wire = skew / device.factors.efficiency
    out, back = away * wire * trip.out_s(link), away * wire * trip.back_s(link)
    choices = rows * choices_of(shape, serving)
    moe = experts.layer_s(shape, choices, held, rows, serving.expert_dtype, device, skew)
    extra = Work(ops=EXCHANGE_OPS).seconds(device)
    first = parts.attention + parts.gate
    busy = _busy_s(shape, parts) + moe + extra
    if shape.shortcut and serving.overlap == "sbo":
        total = first + side_by_side(out, parts.mlp + parts.qkv, loss) + moe + extra
        total += side_by_side(back, parts.core + parts.out + parts.mlp, loss)
    elif serving.overlap == "tbo":
        total = max(side_by_side(busy, out + back, loss), out + moe + back)
    else:
        total = busy + out + back
    return Layer(parts.attention, out, moe, back, parts.mlp, total, busy, moe / total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """Attention devices and expert devices that are apart. `replicas`: of each expert, on different devices."""

    attention: int
    experts: int
    attention_device: Device
    expert_device: Device
    link: Link
    replicas: int = 1

    @property
    def held(self) -> float:
        """Experts of a layer on one expert device, over all of the layer; each replica gets its share of the rows."""
        return min(1.0, self.replicas / self.experts)


def separate(shape: Shape, load: Load, serving: Serving, pools: Pools) -> Layer:
    """The best way in which the two pools take turns: groups of attention workers, or micro-batches of each."""
    found = [
        _separate(shape, load, serving, pools, groups, parts)
        for groups in range(1, max(1, min(serving.groups, pools.attention // serving.tp)) + 1)
        for parts in range(1, serving.micro_batches + 1)
    ]
    return min(found, key=lambda layer: layer.total)


def _separate(shape: Shape, load: Load, serving: Serving, pools: Pools, groups: int, micro: int) -> Layer:
    """`groups` of attention workers are in different layers, and each has `micro` batches; calls of one layer merge.

    Kernels of one micro-batch start while another's run, so all of them together cost their starts once.
    """
    device, link, loss = pools.attention_device, pools.link, pools.attention_device.factors.overlap_loss
    part = Load(load.sequences / micro, load.context)
    rows = part.sent_rows(serving)
    ratio, callers = pools.attention / pools.experts, pools.attention / groups
    trip = exchange(shape, rows, pools.experts, serving)
    wire = serving.skew(pools.experts, shape.experts * pools.held) / device.factors.efficiency
    out, back = wire * trip.out_s(link, ratio), wire * trip.back_s(link, ratio)
    messages = trip.messages * link.message_s
    parts = _parts(shape, part, serving, device)
    handled = rows * choices_of(shape, serving) * link.row_s
    messages += handled
    moe = _pool_s(shape, callers * rows, serving, pools, pools.expert_device) + callers / pools.experts * messages
    extra = Work(ops=EXCHANGE_OPS).seconds(device) + messages
    first = parts.attention + parts.gate
    bare = parts if micro == 1 else _parts(shape, part, serving, _starting(device, micro))
    busy = micro * (_busy_s(shape, bare) + messages)
    busy += Work(ops=EXCHANGE_OPS).seconds(device)
    starting = pools.expert_device if micro == 1 else _starting(pools.expert_device, micro)
    served = _pool_s(shape, callers * rows, serving, pools, starting)
    served = micro * groups * (served + callers / pools.experts * messages)
    window = shape.sublayers * parts.mlp + (shape.sublayers - 1) * parts.attention if shape.shortcut else 0.0
    chain = first + extra + side_by_side(window, out + moe + back, loss if window else 0.0)
    total = max(chain, side_by_side(busy, out + back, loss) if micro > 1 else busy, served)
    return Layer(parts.attention, out, moe, back, parts.mlp, total, busy, served / total, groups, micro)


def _busy_s(shape: Shape, parts: _Parts) -> float:
    return shape.sublayers * (parts.attention + parts.mlp) + parts.gate


def _starting(device: Device, micro: int) -> Device:
    factors = replace(device.factors, op_s=device.factors.op_s / micro)
    return replace(device, factors=factors)


def _pool_s(shape: Shape, rows: float, serving: Serving, pools: Pools, device: Device) -> float:
    """Seconds of an expert device for one layer's rows of so many callers."""
    choices, held = rows * choices_of(shape, serving) / pools.experts, shape.experts * pools.held
    skew = serving.skew(pools.experts, held)
    return experts.layer_s(shape, choices, held, rows / pools.experts, serving.expert_dtype, device, skew)
