"""The placement table as the page reads it, and how many experts have moved between two.

Legend: A (expert, worker) of all layers.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import orjson
from caracal_proto.placement_pb2 import Table
from caracal_proto.placements import PlacementError, unpack_layer
from numpy.typing import NDArray

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PlacementView:
    """A table's JSON, and what the next one is compared with."""

    epoch: int
    body: bytes
    experts: int  # of all layers
    workers: tuple[str, ...]
    code_A: Codes  # (layer, expert) * workers + column, ascending

    @classmethod
    def of(cls, table: Table) -> PlacementView:
        """Takes some milliseconds for many experts. Raises PlacementError."""
        code_, experts, workers = [], 0, max(1, len(table.workers))
        for layer in table.layers:
            replicas_F, worker_A = unpack_layer(layer)
            if worker_A.max(initial=-1) >= workers:
                raise PlacementError("a worker that the table does not name")
            code_.append((experts + np.repeat(np.arange(len(replicas_F)), replicas_F)) * workers + worker_A)
            experts += len(replicas_F)
        names = tuple(worker.worker_id for worker in table.workers)
        body = orjson.dumps(
            {
                "epoch": table.epoch,
                "numerics_class": table.numerics_class,
                "workers": names,
                # Of each layer: uint8 replicas of each expert, and little-endian uint16 columns of `workers`.
                "layers": [
                    [base64.b64encode(layer.replicas).decode(), base64.b64encode(layer.workers).decode()]
                    for layer in table.layers
                ],
            }
        )
        return cls(table.epoch, body, experts, names, np.concatenate(code_) if code_ else np.zeros(0, np.int64))

    def moved_from(self, before: PlacementView) -> int:
        """Returns how many (expert, worker) the earlier table did not have; all, if it is of another model."""
        if before.experts != self.experts:
            return len(self.code_A)
        columns = {name: column for column, name in enumerate(self.workers)}
        column_W = np.array([columns.get(name, -1) for name in before.workers] or [-1], np.int64)
        item_A, worker_A = np.divmod(before.code_A, max(1, len(before.workers)))
        kept_A = column_W[worker_A]
        known_A = (item_A * len(self.workers) + kept_A)[kept_A >= 0]
        return int(np.isin(self.code_A, known_A, assume_unique=True, invert=True).sum())
