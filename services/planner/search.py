"""Looks for the best deployments of so many devices: splits, tensor parallelism, drafts, and sequences of a worker."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from services.planner.deployment import Candidate, Machine, Split, Way, evaluate, room
from services.planner.memory import GPU_PERCENT, experts_bytes
from services.planner.serving import Serving
from services.planner.traffic import Slo, Traffic

WAYS: tuple[Way, ...] = ("separate", "colocated", "prefill apart")
BATCHES, SPLITS, PREFILL_SPLITS = 8, 8, 6
TENSOR_PARALLEL = (1, 2, 4, 8)
MLP_TP = 4
CLOSE = 0.9  # of the best rate: splits of a serving that comes so near are looked at more closely


@dataclass(frozen=True, slots=True)
class NoRoom(Exception):
    """Devices that do not hold the model and one sequence of the traffic."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Devices with room for at least one sequence: `most` on each attention worker. `machine` has the serving."""

    machine: Machine
    way: Way
    split: Split
    most: int

    def with_sequences(self, sequences: int, traffic: Traffic) -> Candidate:
        return evaluate(self.machine, self.way, self.split, sequences, traffic)


def frontier(m: Machine, devices: int, traffic: Traffic) -> list[Candidate]:
    """Every layout with several numbers of sequences, whatever its speed. Raises NoRoom."""
    found = [
        layout.with_sequences(sequences, traffic)
        for way in WAYS
        for layout in layouts(m, way, devices, traffic)
        for sequences in _spread(1, layout.most, BATCHES)
    ]
    if not found:
        raise NoRoom
    return found


def fits(m: Machine, devices: int, traffic: Traffic) -> bool:
    """Whether so many devices hold the model and a sequence, in any way."""
    return any(True for way in WAYS for _ in layouts(m, way, devices, traffic))


def least_devices(m: Machine, traffic: Traffic, most: int) -> int:
    """The fewest devices that hold the model and a sequence; 0 where not even `most` do.

    More of them hold what fewer do, as long as both are a multiple of every tensor parallelism.
    """
    step = max(TENSOR_PARALLEL)
    low, high = 0, -(-most // step)
    if not fits(m, high * step, traffic):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(m, middle * step, traffic) else (middle, high)
    return next(devices for devices in range(low * step + 1, high * step + 1) if fits(m, devices, traffic))


def best(m: Machine, devices: int, traffic: Traffic, slo: Slo) -> dict[Way, Candidate]:
    """The deployment of each way that serves most requests within the SLO. `rate` is what it serves so."""
    chosen: dict[Way, Candidate] = {}
    for way in WAYS:
        by_serving: dict[Serving, tuple[Layout, Candidate]] = {}
        for layout, one in _promising(list(layouts(m, way, devices, traffic)), traffic, slo):
            if layout.machine.serving not in by_serving or one.rate > by_serving[layout.machine.serving][1].rate:
                by_serving[layout.machine.serving] = layout, one
        top = max((one.rate for _, one in by_serving.values()), default=0.0)
        close = [(layout, one) for layout, one in by_serving.values() if one.rate >= CLOSE * top]
        refined = [_refined(layout, one, traffic, slo) for layout, one in close]
        if refined:
            chosen[way] = max(refined, key=lambda one: one.rate)
    return chosen


def _promising(found: list[Layout], traffic: Traffic, slo: Slo) -> Iterator[tuple[Layout, Candidate]]:
    """Layouts at their best, but for those that would serve much less than others whatever their latencies."""
    bounds = [(layout.with_sequences(layout.most, traffic).full, layout) for layout in found]
    top = 0.0
    for bound, layout in sorted(bounds, key=lambda one: -one[0]):
        if bound < CLOSE * top:
            return
        if (one := fullest(layout, traffic, slo)) is not None:
            top = max(top, one.rate)
            yield layout, one


def fullest(layout: Layout, traffic: Traffic, slo: Slo) -> Candidate | None:
    """The layout with the number of sequences at which it serves most within the SLO; None where it cannot."""
    low, high = 0, layout.most + 1  # within it, and beyond
    middle, held = layout.most, list[Candidate]()
    while high - low > 1:
        one = layout.with_sequences(middle, traffic)
        if one.holds(slo):
            low, held = middle, [*held, one]
        else:
            high = middle
        middle = (low + high) // 2
    chosen: Candidate | None = None
    for one in sorted(held, key=lambda each: -each.full):
        if chosen is not None and one.full <= chosen.rate:
            break
        served = one.within(slo, traffic)
        if served > (chosen.rate if chosen is not None else 0.0):
            chosen = replace(one, rate=served)
    return chosen


def _refined(layout: Layout, one: Candidate, traffic: Traffic, slo: Slo) -> Candidate:
    """The best of the splits around a good one."""
    if layout.way == "colocated":
        return one
    m, tp, place = layout.machine, layout.machine.serving.tp, 1 if layout.way == "separate" else 2
    stride = max(1, one.devices // (2 * SPLITS * tp))
    while stride:
        for move in (stride * tp, -stride * tp):
            experts, prompts = (count + move * (at == place) for at, count in ((1, one.experts), (2, one.prefill)))
            split = one.attention - move, experts, prompts
            near = _layout(m, layout.way, split, traffic)
            if near is None or near.with_sequences(near.most, traffic).full <= one.rate:
                continue
            better = fullest(near, traffic, slo)
            if better is not None and better.rate > one.rate:
                one = better
                break
        else:
            stride //= 2
    return one


def pareto(found: list[Candidate], traffic: Traffic) -> list[Candidate]:
    """Those that no other one beats in both tokens/s per user and tokens/s per device, the fastest for users first."""
    ordered = sorted(found, key=lambda one: (-one.step.user_tokens_s, -one.device_tokens_s(traffic)))
    kept: list[Candidate] = []
    for one in ordered:
        if not kept or one.device_tokens_s(traffic) > kept[-1].device_tokens_s(traffic):
            kept.append(one)
    return kept


def layouts(m: Machine, way: Way, devices: int, traffic: Traffic) -> Iterator[Layout]:
    """Those that have room for a sequence."""
    for serving in _servings(m, way, devices):
        machine = replace(m, serving=serving)
        for split in _splits(machine, way, devices):
            if (found := _layout(machine, way, split, traffic)) is not None:
                yield found


def _layout(m: Machine, way: Way, split: Split, traffic: Traffic) -> Layout | None:
    attention, experts, prompts = split
    lacks_prompts = way == "prefill apart" and prompts < m.serving.tp
    if attention < m.serving.tp or lacks_prompts or (way == "separate" and experts < least_experts(m)):
        return None
    if m.serving.mlp_tp > attention:
        m = replace(m, serving=replace(m.serving, mlp_tp=1))
    most = room(m, way, split, traffic)
    return Layout(m, way, split, most) if most >= 1 else None


def _servings(m: Machine, way: Way, devices: int) -> Iterator[Serving]:
    drafts = (0, 1) if m.shape.draft_params and m.serving.drafts else (0,)
    for tp in TENSOR_PARALLEL:
        if tp > 1 and (tp > devices or m.shape.attention.heads % tp or m.device.platform == "cpu"):
            continue
        for count in drafts:
            apart = way == "separate"
            # Four devices share the dense MLPs, as the report's do; Caracal's ranks share attention with them, or
            # nothing.
            shared = 1 if apart or m.node < MLP_TP or not m.shape.dense_ffn else MLP_TP
            yield replace(m.serving, tp=tp, drafts=count, deduplicated=apart, mlp_tp=shared)


def least_experts(m: Machine) -> int:
    """Expert devices that hold every expert as often as wanted, and no device one twice."""
    usable = m.device.memory_bytes * GPU_PERCENT / 100
    weights = experts_bytes(m.shape, m.shape.experts, m.serving) * m.replicas
    return max(m.replicas, math.ceil(weights / usable))


def _splits(m: Machine, way: Way, devices: int) -> Iterator[Split]:
    tp = m.serving.tp
    if way == "colocated":
        if devices % tp == 0:
            yield devices, 0, 0
        return
    if way == "prefill apart":
        wanted: Iterable[int] = (round(devices * part / (PREFILL_SPLITS + 2)) for part in range(1, PREFILL_SPLITS + 1))
        for attention in dict.fromkeys((devices - max(tp, one)) // tp * tp for one in wanted):
            if attention > 0:
                yield attention, 0, devices - attention
        return
    spread = _spread(least_experts(m), devices - tp, SPLITS)
    for attention in dict.fromkeys((devices - experts) // tp * tp for experts in spread):
        if attention > 0:
            yield attention, devices - attention, 0


def _spread(low: int, high: int, count: int) -> list[int]:
    """About `count` whole numbers from low to high, evenly by ratio."""
    if high < low or low < 1:
        return []
    ratio = (high / low) ** (1 / max(1, count - 1))
    return sorted({min(high, round(low * ratio**step)) for step in range(count)})
