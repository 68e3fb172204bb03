"""Reads and writes the arrays of placement messages.

Legend: F FFN experts of a layer, A replicas of the layer, expert by expert; N experts of any layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from caracal_proto.placement_pb2 import LayerExperts, LayerPlacement, Table

MAX_REPLICAS, MAX_WORKERS, MAX_EXPERTS = 255, 1 << 16, 1 << 16

Indices = NDArray[np.int64]


class PlacementError(ValueError):
    """A message whose arrays contradict each other."""


def pack_layer(replicas_F: Indices, worker_A: Indices) -> LayerPlacement:
    """The message of a layer whose expert f has the next `replicas_F[f]` of `worker_A`."""
    assert replicas_F.max(initial=0) <= MAX_REPLICAS
    assert worker_A.max(initial=0) < MAX_WORKERS
    return LayerPlacement(replicas=replicas_F.astype("u1").tobytes(), workers=worker_A.astype("<u2").tobytes())


def unpack_layer(layer: LayerPlacement) -> tuple[Indices, Indices]:
    """The arrays that `pack_layer` takes. Raises PlacementError."""
    replicas_F = np.frombuffer(layer.replicas, "u1").astype(np.int64)
    if len(layer.workers) != 2 * replicas_F.sum():
        raise PlacementError(
            f"{replicas_F.sum()} replicas need {2 * replicas_F.sum()} bytes of workers, there are {len(layer.workers)}"
        )
    worker_A = np.frombuffer(layer.workers, "<u2").astype(np.int64)
    expert_A = np.repeat(np.arange(len(replicas_F)), replicas_F)
    falls_A = (expert_A[1:] == expert_A[:-1]) & (worker_A[1:] <= worker_A[:-1])
    if falls_A.any():
        raise PlacementError(f"the workers of expert {expert_A[1:][falls_A][0]} do not ascend")
    return replicas_F, worker_A


def layer_of(workers_of: Iterable[Sequence[int]]) -> LayerPlacement:
    """The message of a layer, from the workers of each expert."""
    lists = [list(workers) for workers in workers_of]
    flat = [worker for workers in lists for worker in workers]
    return pack_layer(np.array([len(each) for each in lists], np.int64), np.array(flat, np.int64))


def workers_of(layer: LayerPlacement) -> list[list[int]]:
    """The workers of each expert of a layer. Raises PlacementError."""
    replicas_F, worker_A = unpack_layer(layer)
    return [each.tolist() for each in np.split(worker_A, np.cumsum(replicas_F)[:-1])] if len(replicas_F) else []


def pack_experts(layer_N: Indices, expert_N: Indices) -> list[LayerExperts]:
    """The messages of experts that ascend by (layer, expert)."""
    if not len(layer_N):
        return []
    firsts = np.flatnonzero(np.diff(layer_N, prepend=-1))
    layers, parts = layer_N[firsts], np.split(expert_N.astype("<u2"), firsts[1:])
    return [
        LayerExperts(layer=layer, experts=part.tobytes()) for layer, part in zip(layers.tolist(), parts, strict=True)
    ]


def unpack_experts(messages: Iterable[LayerExperts]) -> tuple[Indices, Indices]:
    """The arrays that `pack_experts` takes. Raises PlacementError when experts do not ascend."""
    messages = list(messages)
    if any(len(message.experts) % 2 for message in messages):
        raise PlacementError("experts: an id has two bytes")
    expert_N = np.frombuffer(b"".join(message.experts for message in messages), "<u2").astype(np.int64)
    layer_N = np.repeat([message.layer for message in messages], [len(message.experts) // 2 for message in messages])
    item_N = layer_N.astype(np.int64) * MAX_EXPERTS + expert_N
    if (item_N[1:] <= item_N[:-1]).any():
        raise PlacementError("experts: they do not ascend by layer and id")
    return layer_N.astype(np.int64), expert_N


def same_table(one: Table, other: Table) -> bool:
    """Whether two tables are the same one. Messages that came sealed differ from those that did not, by `==`."""
    return (
        (one.epoch, one.numerics_class) == (other.epoch, other.numerics_class)
        and list(one.workers) == list(other.workers)
        and list(one.layers) == list(other.layers)
    )


def takes_epoch_of(table: Table, current: Table | None) -> bool:
    """Whether it has the epoch of the current table of a worker, and is another one."""
    return current is not None and table.epoch == current.epoch and not same_table(table, current)
