"""Looks for the best deployments of so many devices: splits, tensor parallelism, drafts, batch sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.planner.deployment import Candidate, Machine, Way, evaluate, room
from services.planner.memory import GPU_PERCENT, attention_bytes, experts_bytes, on_device
from services.planner.serving import Serving
from services.planner.traffic import Slo, Traffic

WAYS: tuple[Way, ...] = ("separate", "colocated", "prefill apart")
BATCHES, SPLITS, PREFILL_SPLITS = 8, 8, 6
TENSOR_PARALLEL = (1, 2, 4, 8)
MLP_TP = 4


@dataclass(frozen=True, slots=True)
class NoRoom(Exception):
    """A model that does not fit. `least`: devices that would hold it."""

    least: int


def frontier(m: Machine, devices: int, traffic: Traffic) -> list[Candidate]:
    """Every deployment that was looked at, whatever its speed. Raises NoRoom."""
    found = [one for way in WAYS for one in candidates(m, way, devices, traffic, Slo())]
    if not found:
        raise NoRoom(least_devices(m))
    return found


def best(found: list[Candidate], slo: Slo, traffic: Traffic) -> dict[Way, Candidate]:
    """The deployment of each way that serves most requests within the SLO."""
    fitting = [
        one
        for one in found
        if one.step.tpot_s <= slo.itl_s and one.ttft_percentile_s(traffic, 0.7 * one.rate) <= slo.ttft_s
    ]
    chosen: dict[Way, Candidate] = {}
    for one in fitting:
        if one.way not in chosen or one.rate > chosen[one.way].rate:
            chosen[one.way] = one
    return chosen


def pareto(found: list[Candidate], traffic: Traffic) -> list[Candidate]:
    """Those that no other one beats in both tokens/s per user and tokens/s per device, the fastest for users first."""
    ordered = sorted(found, key=lambda one: (-one.step.user_tokens_s, -one.device_tokens_s(traffic)))
    kept: list[Candidate] = []
    for one in ordered:
        if not kept or one.device_tokens_s(traffic) > kept[-1].device_tokens_s(traffic):
            kept.append(one)
    return kept


def candidates(m: Machine, way: Way, devices: int, traffic: Traffic, slo: Slo) -> Iterator[Candidate]:
    for serving in _servings(m, way, devices):
        machine = replace(m, serving=serving)
        for split in _splits(machine, way, devices):
            most = _most(machine, way, split, traffic)
            for sequences in _batches(most):
                found = evaluate(machine, way, split, sequences, traffic, slo)
                if found is not None:
                    yield found


def _servings(m: Machine, way: Way, devices: int) -> Iterator[Serving]:
    drafts = (0, 1) if m.shape.draft_params and m.serving.drafts else (0,)
    for tp in TENSOR_PARALLEL:
        if tp > 1 and (tp >= devices or m.shape.attention.heads % tp):
            continue
        for count in drafts:
            apart = way == "separate"
            # Four devices share the dense MLPs, as the report's do; Caracal's ranks share attention with them, or
            # nothing.
            shared = 1 if apart or m.node < MLP_TP or not m.shape.dense_ffn else MLP_TP
            yield replace(m.serving, tp=tp, drafts=count, deduplicated=apart, mlp_tp=shared)


def least_experts(m: Machine) -> int:
    """Expert devices that hold every expert as often as wanted."""
    usable = m.device.memory_bytes * GPU_PERCENT / 100
    return math.ceil(experts_bytes(m.shape, m.shape.experts, m.serving) * m.replicas / usable)


def least_devices(m: Machine) -> int:
    """Devices that hold the model at all, in the way that needs the fewest."""
    weights = experts_bytes(m.shape, m.shape.experts, m.serving)
    for devices in range(1, 1 << 16):
        tp = max(one for one in TENSOR_PARALLEL if one <= devices and m.shape.attention.heads % one == 0)
        serving = replace(m.serving, tp=tp)
        dense, page = attention_bytes(m.shape, serving), on_device(m.shape, serving, 1e15, 0).page_bytes
        if dense + weights / devices + page <= m.device.memory_bytes * GPU_PERCENT / 100:
            return devices
    return 1 << 16


def _splits(m: Machine, way: Way, devices: int) -> Iterator[tuple[int, int, int]]:
    tp = m.serving.tp
    if way == "colocated":
        if devices % tp == 0:
            yield devices, 0, 0
        return
    if way == "prefill apart":
        for part in range(1, PREFILL_SPLITS + 1):
            prompts = max(1, round(devices * part / (PREFILL_SPLITS + 2)))
            decode = (devices - prompts) // tp * tp
            if decode > 0:
                yield decode, 0, devices - decode
        return
    seen = set()
    for experts in _spread(least_experts(m), devices - tp, SPLITS):
        attention = (devices - experts) // tp * tp
        if attention > 0 and attention not in seen:
            seen.add(attention)
            yield attention, devices - attention, 0


def _most(m: Machine, way: Way, split: tuple[int, int, int], traffic: Traffic) -> int:
    held = 0.0 if way == "separate" else m.shape.experts / split[0]
    if split[2] and experts_bytes(m.shape, m.shape.experts / split[2], m.serving) > m.device.memory_bytes:
        return 0
    return room(on_device(m.shape, m.serving, m.device.memory_bytes, held), traffic)


def _batches(most: int) -> list[int]:
    return _spread(1, most, BATCHES) if most >= 1 else []


def _spread(low: int, high: int, count: int) -> list[int]:
    """About `count` whole numbers from low to high, evenly by ratio."""
    if high < low or low < 1:
        return []
    ratio = (high / low) ** (1 / max(1, count - 1))
    return sorted({min(high, round(low * ratio**step)) for step in range(count)})
