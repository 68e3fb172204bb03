"""A placement table compiled for `plan_rows`: per layer, the workers of each expert's replicas. It is immutable.

Legend: F FFN experts of a layer; the replicas of expert e are worker[offset_F[e] : offset_F[e + 1]].
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import torch
from caracal_proto import placement_pb2
from caracal_proto.placements import Indices, PlacementError, unpack_layer
from torch import Tensor

Key = tuple[str, str, str]
CPU = torch.device("cpu")


def key_of(endpoint: placement_pb2.Endpoint) -> Key:
    """Returns the key of one run of a worker process: it changes with every restart."""
    return endpoint.worker_id, endpoint.boot_id, endpoint.address


class TableError(ValueError):
    """A table that does not fit the model, or contradicts itself."""


@dataclass(frozen=True, slots=True)
class LayerReplicas:
    """One layer's replicas as `plan_rows` takes them."""

    offset_F: Tensor  # int32 [F + 1]
    worker: Tensor  # int32, indices into RoutingTable.workers
    complete: bool  # every expert has a replica
    replicated: bool  # some expert has several

    @classmethod
    def of_placement(cls, replicas_F: Indices, worker_A: Indices, device: torch.device = CPU) -> LayerReplicas:
        offset_F = torch.zeros(len(replicas_F) + 1, dtype=torch.int32)
        torch.cumsum(torch.from_numpy(replicas_F), 0, out=offset_F[1:], dtype=torch.int32)
        worker = torch.from_numpy(worker_A).to(torch.int32)
        complete, replicated = bool(replicas_F.all()), bool((replicas_F > 1).any())
        return cls(offset_F.to(device), worker.to(device), complete, replicated)

    @classmethod
    def of(cls, replicas: Iterable[Iterable[int]], device: torch.device = CPU) -> LayerReplicas:
        lists = [list(workers) for workers in replicas]
        offsets = [0, *accumulate(map(len, lists))]
        flat = [worker for workers in lists for worker in workers]
        offset_F, worker = (torch.tensor(each, dtype=torch.int32, device=device) for each in (offsets, flat))
        return cls(offset_F, worker, all(lists), any(len(workers) > 1 for workers in lists))

    def lists(self) -> list[list[int]]:
        """Returns, per expert, the workers that have a replica of it."""
        offsets, workers = self.offset_F.tolist(), self.worker.tolist()
        return [workers[begin:end] for begin, end in pairwise(offsets)]

    def without(self, banned: frozenset[int]) -> LayerReplicas:
        """Returns the layer without the replicas on `banned` workers; an expert may be left with none."""
        if not banned:
            return self
        left = ([worker for worker in workers if worker not in banned] for workers in self.lists())
        return LayerReplicas.of(left, self.worker.device)

    def avoiding(self, banned: frozenset[int]) -> LayerReplicas:
        """Returns the layer without the replicas on `banned` workers, except those of experts that have no other."""
        if not banned:
            return self
        left = ([worker for worker in workers if worker not in banned] or workers for workers in self.lists())
        return LayerReplicas.of(left, self.worker.device)


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """The replicas of every layer's experts, under one epoch."""

    epoch: int
    workers: tuple[placement_pb2.Endpoint, ...]
    keys: tuple[Key, ...]  # of the workers
    layers: tuple[LayerReplicas, ...]

    @property
    def complete(self) -> bool:
        """Whether every expert has a replica."""
        return all(layer.complete for layer in self.layers)

    @property
    def replicated(self) -> bool:
        """Whether some expert has several replicas."""
        return any(layer.replicated for layer in self.layers)

    def used(self) -> frozenset[int]:
        """The workers that have a replica of anything."""
        return frozenset(torch.cat([layer.worker for layer in self.layers]).unique().tolist())

    def of_worker(self, worker: int) -> tuple[int, int] | None:
        """A layer and an expert that a worker has a replica of; None when it has none."""
        for number, layer in enumerate(self.layers):
            if len(places := (layer.worker == worker).nonzero()):
                return number, int(torch.searchsorted(layer.offset_F.long(), places[0], right=True)) - 1
        return None

    @classmethod
    def empty(cls, num_layers: int, num_ffn: int) -> RoutingTable:
        """Returns the table before the first one arrives: no expert has a replica."""
        return cls(0, (), (), (LayerReplicas.of([[]] * num_ffn),) * num_layers)

    def places(self, keys: Set[Key]) -> frozenset[int]:
        """These workers, as indices."""
        return frozenset(worker for worker, key in enumerate(self.keys) if key in keys)

    def avoiding(self, keys: Set[Key]) -> RoutingTable:
        """Returns the table without the replicas on these workers, except those of experts that have no other."""
        banned = self.places(keys)
        return replace(self, layers=tuple(layer.avoiding(banned) for layer in self.layers)) if banned else self


def compile_table(
    table: placement_pb2.Table, num_layers: int, num_ffn: int, device: torch.device = CPU
) -> RoutingTable:
    """Checks a table and compiles it. `device` is where `plan_rows` runs. Raises TableError."""
    if len(table.layers) != num_layers:
        raise TableError(f"the table has {len(table.layers)} layers, the model {num_layers}")
    unpacked = [_unpack(layer, placement, num_ffn, len(table.workers)) for layer, placement in enumerate(table.layers)]
    layers = tuple(LayerReplicas.of_placement(*each, device) for each in unpacked)
    return RoutingTable(table.epoch, tuple(table.workers), tuple(map(key_of, table.workers)), layers)


def _unpack(
    layer: int, placement: placement_pb2.LayerPlacement, num_ffn: int, num_workers: int
) -> tuple[Indices, Indices]:
    try:
        replicas_F, worker_A = unpack_layer(placement)
    except PlacementError as error:
        raise TableError(f"layer {layer} of the table: {error}") from None
    if len(replicas_F) != num_ffn:
        raise TableError(f"layer {layer} of the table has {len(replicas_F)} experts, the model {num_ffn}")
    expert_A = np.repeat(np.arange(num_ffn), replicas_F)
    if (unnamed := expert_A[worker_A >= num_workers]).size:
        raise TableError(f"expert {unnamed[0]} of layer {layer} is placed on a worker that the table does not name")
    return replicas_F, worker_A
