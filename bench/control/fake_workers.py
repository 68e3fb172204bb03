"""`python -m bench.control.fake_workers REDIS_URL`: many workers that speak the real protocol and hold nothing.

Each has its own gRPC server and its own lease. Commands come as lines of JSON on the standard input, answers go out the
same way: {"join": [role, count]}, {"kill": worker id}, {"drain": worker id} or {"rate": of the hottest expert}, each
answered once every worker that is left has a newer table than before; with "wait": false, at once. An empty command is
answered with what the workers have received since the last one.

Legend: N experts of a call, F FFN experts of a layer, A replicas of the layer, expert by expert.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import numpy as np
import uvloop
from caracal_proto import attention_pb2, attention_pb2_grpc, expert_pb2, expert_pb2_grpc
from caracal_proto.placement_pb2 import Table
from caracal_proto.placements import unpack_experts, unpack_layer
from grpc_health.v1 import health, health_pb2_grpc

from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable

NUMERICS_CLASS = "nothing"
CHANGE_S = 120.0
OPTIONS = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20))


@dataclass(slots=True)
class Counts:
    """What all workers have received since the last answer."""

    calls: int = 0
    bytes: int = 0
    prepared: int = 0  # experts
    at: dict[str, float] = field(default_factory=dict)  # time.perf_counter of the first call of each kind

    def add(self, kind: str, message: Any) -> None:
        self.at.setdefault(kind, time.perf_counter())
        self.calls += 1
        self.bytes += message.ByteSize()


class FakeWorker(expert_pb2_grpc.ExpertServicer, attention_pb2_grpc.AttentionServicer):
    """One worker of either role."""

    def __init__(self, role: str, number: int, redis_url: str, fakes: FakeWorkers) -> None:
        self.role, self.worker_id, self.epoch, self.draining = role, f"{role}-{number}", 0, False
        self._table = Table()
        self._boot_id, self._address, self._loaded = f"{role}-{number}-{time.time_ns()}", "", 0
        self._fakes = fakes
        self._membership = Membership(redis_url)
        self._server = grpc.aio.server(options=OPTIONS)
        self._lease: asyncio.Task[None] | None = None

    async def join(self) -> None:
        expert_pb2_grpc.add_ExpertServicer_to_server(self, self._server)
        attention_pb2_grpc.add_AttentionServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), self._server)
        self._address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        self._lease = asyncio.create_task(self._membership.advertise(self.record))

    async def kill(self) -> None:
        """Ends without a word, as kill -9 does; the lease stays until it expires."""
        if self._lease is not None:
            self._lease.cancel()
        await self._server.stop(None)
        await self._membership.close()

    async def drain(self) -> None:
        self.draining = True
        with contextlib.suppress(RedisUnavailable):
            await self._membership.announce(self.record())

    def record(self) -> WorkerRecord:
        return WorkerRecord(
            worker_id=self.worker_id,
            role=self.role,
            address=self._address,
            boot_id=self._boot_id,
            numerics_class=NUMERICS_CLASS,
            epoch=self.epoch,
            draining=self.draining,
            progress=int(time.monotonic()),
            loaded=self._loaded,
            stats={"calls": time.monotonic(), "rows": time.monotonic(), "kv_pages_total": 1024.0},
        )

    async def Prepare(self, request: expert_pb2.PrepareRequest, context: Any) -> expert_pb2.PrepareReply:
        self._fakes.counts.add("prepare", request)
        layer_N, expert_N = unpack_experts(request.experts)
        self._fakes.counts.prepared += len(layer_N)
        digest_N = (layer_N.astype(np.uint64) << np.uint64(32)) + expert_N.astype(np.uint64) + np.uint64(1)
        return expert_pb2.PrepareReply(digests=digest_N.astype("<u8").tobytes())

    async def Commit(self, request: expert_pb2.CommitRequest, context: Any) -> expert_pb2.CommitReply:
        self._take("commit", request, request.table.epoch)
        self._table = request.table
        return expert_pb2.CommitReply(epoch=self.epoch)

    async def ApplyTable(self, request: Any, context: Any) -> attention_pb2.ApplyTableReply:
        self._take("apply", request, request.epoch)
        return attention_pb2.ApplyTableReply(epoch=self.epoch)

    async def Describe(self, request: Any, context: Any) -> Any:
        if self.role == "attention":
            return attention_pb2.AttentionDescription(
                worker_id=self.worker_id,
                boot_id=self._boot_id,
                epoch=self.epoch,
                max_model_len=4096,
                kv_pages_total=1024,
            )
        return expert_pb2.ExpertDescription(worker_id=self.worker_id, boot_id=self._boot_id, epoch=self.epoch)

    def _take(self, kind: str, message: Any, epoch: int) -> None:
        self._fakes.counts.add(kind, message)
        self.epoch = max(self.epoch, epoch)
        self._fakes.changed.set()

    async def Load(self, request: expert_pb2.LoadRequest, context: Any) -> expert_pb2.LoadReply:
        """No rows, as in an idle cluster; or Zipf's law, the same for every layer but for the order of its experts."""
        mine = [column for column, worker in enumerate(self._table.workers) if worker.worker_id == self.worker_id]
        loads = []
        for layer, placement in enumerate(self._table.layers):
            replicas_F, worker_A = unpack_layer(placement)
            expert_A = np.repeat(np.arange(len(replicas_F)), replicas_F)
            expert_N = expert_A[np.isin(worker_A, mine)]
            rate_N = self._fakes.rate / (1 + (expert_N * 7 + layer) % len(replicas_F)) / replicas_F[expert_N]
            experts, rates = expert_N.astype("<u2").tobytes(), rate_N.astype("<f4").tobytes()
            loads.append(expert_pb2.LayerLoad(layer=layer, experts=experts, rates=rates))
        return expert_pb2.LoadReply(layers=loads, window_s=60.0, assignments_per_s=self._fakes.rate)

    def Session(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    def Open(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Rendezvous(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    def Tensors(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Generate(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def GenerateMany(self, messages: Any, context: Any) -> Any:
        raise NotImplementedError

    def Pages(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


class FakeWorkers:
    """All workers of this process."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._workers: dict[str, FakeWorker] = {}
        self._numbers = {role: itertools.count() for role in ("expert", "attention")}
        self.rate = 0.0  # assignments per second of the hottest expert
        self.counts, self.changed = Counts(), asyncio.Event()

    async def command(self, given: dict[str, Any]) -> dict[str, Any]:
        """Carries a command out; returns seconds from its start to each first call and to the end, and the counts."""
        counts, began_s = self.counts, time.perf_counter()
        if given:  # without anything to do, it tells what has come since
            counts = self.counts = Counts()
        epoch = max((worker.epoch for worker in self._workers.values()), default=0)
        self.rate = given.get("rate", self.rate)
        if "join" in given:
            role, count = given["join"]
            await self._join(role, count)
        elif "kill" in given:
            await self._workers.pop(given["kill"]).kill()
        elif "drain" in given:
            await self._workers[given["drain"]].drain()
        if given and given.get("wait", True):
            await self._until(lambda: all(worker.epoch > epoch for worker in self._workers.values()))
        times = {kind: at - began_s for kind, at in counts.at.items()} | {"served": time.perf_counter() - began_s}
        return {"seconds": times, "calls": counts.calls, "bytes": counts.bytes, "prepared": counts.prepared}

    async def _join(self, role: str, count: int) -> None:
        for _ in range(count):
            worker = FakeWorker(role, next(self._numbers[role]), self._redis_url, self)
            self._workers[worker.worker_id] = worker
            await worker.join()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(CHANGE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def run(redis_url: str) -> None:
    fakes, loop = FakeWorkers(redis_url), asyncio.get_running_loop()
    print("{}", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await fakes.command(json.loads(line))), flush=True)


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1]))
