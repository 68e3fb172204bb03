"""A cluster that is only announced: leases and a placement table in a real Redis, for what shows clusters."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import pack_layer

from services.membership.record import WorkerRecord
from services.membership.redis import RENEW_S, Membership

NUMERICS = "caracal-announced"
Step = Callable[[WorkerRecord, int], WorkerRecord]


def attention(number: int, layers: int, **changes: Any) -> WorkerRecord:
    """An attention worker that waits longer for the experts of later layers."""
    record = WorkerRecord(
        worker_id=f"attention-{number}",
        role="attention",
        address=f"10.0.1.{number}:50051",
        metrics_address=f"10.0.1.{number}:9400",
        boot_id=f"boot-of-attention-{number}",
        numerics_class=NUMERICS,
        epoch=1001,
        stats={
            "running": 20.0 + number % 7,
            "waiting": float(number % 3),
            "kv_pages_used": 400.0 + 10 * (number % 30),
            "kv_pages_total": 1024.0,
            "zero_share": 0.31,
            "exposed_s_per_layer": 120e-6,
            "round_trip_s_per_layer": 900e-6,
            "generation_tokens": 1e6,
        },
        layers={
            "exposed_us": [80.0 + 6 * layer for layer in range(layers)],
            "round_trip_us": [800.0 + 4 * layer for layer in range(layers)],
            "zero_share": [round(0.2 + 0.25 * layer / layers, 3) for layer in range(layers)],
        },
    )
    return replace(record, **changes)


def expert(number: int, loaded: int, **changes: Any) -> WorkerRecord:
    record = WorkerRecord(
        worker_id=f"expert-{number}",
        role="expert",
        address=f"10.0.2.{number}:50052",
        metrics_address=f"10.0.2.{number}:9400",
        boot_id=f"boot-of-expert-{number}",
        numerics_class=NUMERICS,
        epoch=1001,
        capacity=2 * loaded,
        host=f"node-{number // 4}",
        loaded=loaded,
        stats={"launches": 1e5, "calls": 2e5, "rows": 1e6, "assignments": 4e6, "rejected": 0.0},
    )
    return replace(record, **changes)


def router(number: int = 0) -> WorkerRecord:
    return WorkerRecord(
        worker_id=f"router-{number}",
        role="router",
        address=f"10.0.0.{number}:8001",
        metrics_address=f"10.0.0.{number}:8000",
        boot_id=f"boot-of-router-{number}",
        epoch=1001,
        stats={"leading": float(number == 0)},
    )


def even_table(layers: int, experts: int, workers: int, epoch: int = 1001) -> Table:
    """A table in which every worker has the same share of each layer, other experts in each."""
    ends = [
        Endpoint(worker_id=f"expert-{n}", address=f"10.0.2.{n}:50052", boot_id=f"boot-of-expert-{n}")
        for n in range(workers)
    ]
    table = Table(epoch=epoch, numerics_class=NUMERICS, workers=ends)
    for layer in range(layers):
        order = np.random.default_rng(layer).permutation(experts)
        table.layers.append(pack_layer(np.ones(experts, np.int64), (order % workers).astype(np.int64)))
    return table


class AnnouncedCluster:
    """Renews the leases of `records`, which tests change, until it is left. `step` changes what they count."""

    def __init__(self, redis_url: str, records: list[WorkerRecord], table: Table, step: Step | None = None) -> None:
        self.records, self.table, self._step = records, table, step
        self._redis_url = redis_url
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._begun, self._stopping = threading.Event(), threading.Event()

    def __enter__(self) -> AnnouncedCluster:
        self._thread.start()
        assert self._begun.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    async def _run(self) -> None:
        membership = Membership(self._redis_url)
        rounds = 0
        while not self._stopping.is_set():
            await membership.write_table(self.table)
            await membership.pulse("router-0/boot", 3000)
            for record in list(self.records):
                await membership.announce(self._step(record, rounds) if self._step else record)
            self._begun.set()
            rounds += 1
            await asyncio.sleep(RENEW_S / 2)
        await membership.close()
