"""Reads and writes a worker's load: what its experts are asked for. The bytes of a reply are checked.

Legend: L layers, F FFN experts of a layer, E experts of a layer that the worker has loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caracal_proto.expert_pb2 import LayerLoad, LoadReply

MAX_EXPERTS = 1 << 16


class LoadError(ValueError):
    """A LoadReply whose arrays contradict each other or the model, or whose numbers cannot be."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkerLoad:
    """The load of one expert worker, as means over the recent past."""

    loaded_LF: NDArray[np.bool_]
    rate_LF: NDArray[np.float64]  # assignments per second, 0 for experts that are not loaded
    window_s: float  # a rate r has a standard deviation of sqrt(r / window_s)
    busy: float  # share of time spent in launches
    assignments_per_s: float  # of all experts, also of those unloaded since


def pack_load(load: WorkerLoad) -> LoadReply:
    """The message of a load."""
    assert load.loaded_LF.shape[1] <= MAX_EXPERTS
    layers = [
        LayerLoad(
            layer=layer,
            experts=np.flatnonzero(loaded_F).astype("<u2").tobytes(),
            rates=rate_F[loaded_F].astype("<f4").tobytes(),
        )
        for layer, (loaded_F, rate_F) in enumerate(zip(load.loaded_LF, load.rate_LF, strict=True))
        if loaded_F.any()
    ]
    return LoadReply(layers=layers, window_s=load.window_s, busy=load.busy, assignments_per_s=load.assignments_per_s)


def unpack_load(reply: LoadReply, layers: int, experts: int) -> WorkerLoad:
    """The load of a worker of a model with so many layers, and FFN experts in each. Raises LoadError."""
    for name, value in (
        ("window_s", reply.window_s),
        ("busy", reply.busy),
        ("assignments_per_s", reply.assignments_per_s),
    ):
        if not 0 <= value < float("inf"):
            raise LoadError(f"{name} is {value}")
    loaded_LF, rate_LF = np.zeros((layers, experts), np.bool_), np.zeros((layers, experts))
    last = -1
    for each in reply.layers:
        if each.layer >= layers:
            raise LoadError(f"layer {each.layer} of a model with {layers}")
        if each.layer <= last:
            raise LoadError(f"layer {each.layer} after layer {last}: layers do not ascend")
        last = each.layer
        expert_E, rate_E = _unpack_layer(each, experts)
        loaded_LF[last, expert_E], rate_LF[last, expert_E] = True, rate_E
    return WorkerLoad(loaded_LF, rate_LF, reply.window_s, reply.busy, reply.assignments_per_s)


def _unpack_layer(layer: LayerLoad, experts: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(expert_E, rate_E). Raises LoadError."""
    count = len(layer.experts) // 2
    if len(layer.experts) != 2 * count or len(layer.rates) != 4 * count:
        raise LoadError(
            f"layer {layer.layer} has {len(layer.experts)} bytes of experts and {len(layer.rates)} of rates"
        )
    expert_E = np.frombuffer(layer.experts, "<u2").astype(np.int64)
    rate_E = np.frombuffer(layer.rates, "<f4").astype(np.float64)
    if (np.diff(expert_E) <= 0).any():
        raise LoadError(f"the experts of layer {layer.layer} do not ascend")
    if expert_E.max(initial=-1) >= experts:
        raise LoadError(f"expert {expert_E[-1]} of layer {layer.layer}, of a model with {experts}")
    if not (np.isfinite(rate_E) & (rate_E >= 0)).all():
        raise LoadError(f"a rate of layer {layer.layer} is negative or not finite")
    return expert_E, rate_E
