"""Expert and attention workers without weights: real gRPC servers and leases for tests of the placement leader."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import grpc
import grpc.aio
import numpy as np
from caracal_proto import attention_pb2, attention_pb2_grpc, expert_pb2, expert_pb2_grpc, placement_pb2
from caracal_proto.loads import WorkerLoad, pack_load
from caracal_proto.placements import pack_experts, takes_epoch_of, unpack_experts, workers_of
from grpc_health.v1 import health, health_pb2_grpc

from services.membership.record import WorkerRecord
from services.membership.redis import Membership


class FakeWorker(expert_pb2_grpc.ExpertServicer, attention_pb2_grpc.AttentionServicer):
    """One worker of either role. Appends each call it gets to `calls`: (worker id, kind of call, epoch)."""

    def __init__(
        self,
        role: str,
        number: int,
        calls: list[tuple[str, str, int]],
        boot: str = "a",
        rejects: str = "",
        **record: Any,
    ) -> None:
        self.role, self.worker_id, self.boot_id = role, f"{role}-{number}", f"{role}{number}{boot}"
        self.loaded: set[tuple[int, int]] = set()
        self.rates: dict[tuple[int, int], float] | None = {}  # assignments per second, 1 where absent
        self.replicas: dict[tuple[int, int], int] = {}  # of the last table, by (layer, expert)
        self.busy = 0.0
        self.rejects = rejects  # the error message of every Prepare, if not empty
        self.epoch, self.draining, self.salt, self.load_s = 0, False, b"", 0.0
        self.table: placement_pb2.Table | None = None  # the last one that it took
        self.holds: set[str] = set()  # calls that are never answered: Load, Commit, Describe
        self.held = 0  # such calls that have not ended
        self._calls, self._record, self._port = calls, {"numerics_class": "c", **record}, 0
        self._server: Any = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        expert_pb2_grpc.add_ExpertServicer_to_server(self, self._server)
        attention_pb2_grpc.add_AttentionServicer_to_server(self, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), self._server)
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()

    async def stop(self) -> None:
        """Stops like kill -9: the lease stays until it expires."""
        await self._server.stop(None)

    def record(self) -> WorkerRecord:
        return WorkerRecord(
            worker_id=self.worker_id,
            role=self.role,
            address=f"127.0.0.1:{self._port}",
            boot_id=self.boot_id,
            epoch=self.epoch,
            draining=self.draining,
            loaded=len(self.loaded),
            **self._record,
        )

    async def join(self, membership: Membership) -> None:
        await self.start()
        await membership.announce(self.record())

    async def Prepare(self, request: expert_pb2.PrepareRequest, context: Any) -> expert_pb2.PrepareReply:
        self._calls.append((self.worker_id, "prepare", request.epoch))
        await asyncio.sleep(self.load_s)
        if self.rejects:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.rejects)
        reply = expert_pb2.PrepareReply()
        layer_N, expert_N = unpack_experts(request.experts)
        for layer, expert in zip(layer_N.tolist(), expert_N.tolist(), strict=True):
            self.loaded.add((layer, expert))
            reply.digests += hashlib.sha256(b"%d %d" % (layer, expert) + self.salt).digest()[:8]
        return reply

    async def Tensors(self, request: expert_pb2.TensorsRequest, context: Any) -> expert_pb2.TensorsReply:
        """Of three tensors the second one has other bytes where there is salt."""
        if (request.layer, request.expert) not in self.loaded:
            await context.abort(grpc.StatusCode.NOT_FOUND, "not loaded")
        tensors = [expert_pb2.ExpertTensor(file="model-1.safetensors", tensor=one) for one in ("gate", "up", "down")]
        tensors[1].checksum = len(self.salt)
        return expert_pb2.TensorsReply(tensors=tensors)

    async def Commit(self, request: expert_pb2.CommitRequest, context: Any) -> expert_pb2.CommitReply:
        await self._hold("Commit")
        table = request.table
        if table.epoch < self.epoch:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "stale")
        await self._refuse_a_second(table, context)
        me = [i for i, worker in enumerate(table.workers) if worker.boot_id == self.boot_id]
        given = {
            (layer, expert)
            for layer, placement in enumerate(table.layers)
            for expert, replicas in enumerate(workers_of(placement))
            if set(me) & set(replicas)
        }
        if not given <= self.loaded:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "given what was not prepared")
        self._calls.append((self.worker_id, "commit", table.epoch))
        self.epoch, self.table = table.epoch, table
        self.replicas = {
            (layer, expert): len(replicas)
            for layer, placement in enumerate(table.layers)
            for expert, replicas in enumerate(workers_of(placement))
        }
        self.loaded = given
        return expert_pb2.CommitReply(epoch=self.epoch, loaded=len(given))

    async def ApplyTable(self, request: Any, context: Any) -> attention_pb2.ApplyTableReply:
        await self._refuse_a_second(request, context)
        self._calls.append((self.worker_id, "apply", request.epoch))
        if request.epoch >= self.epoch:
            self.epoch, self.table = request.epoch, request
        return attention_pb2.ApplyTableReply(epoch=self.epoch)

    async def _refuse_a_second(self, table: placement_pb2.Table, context: Any) -> None:
        if takes_epoch_of(table, self.table):
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"epoch {table.epoch} is another table's here")

    def Session(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Load(self, request: Any, context: Any) -> expert_pb2.LoadReply:
        """The rates of `rates`, each shared by as many replicas as `replicas` says; INTERNAL while `rates` is None."""
        await self._hold("Load")
        rates = self.rates
        if rates is None:
            await context.abort(grpc.StatusCode.INTERNAL, "no load is known")
            raise AssertionError("abort raises")
        layers = 1 + max((layer for layer, _ in self.loaded), default=-1)
        experts = 1 + max((expert for _, expert in self.loaded), default=-1)
        loaded_LF, rate_LF = np.zeros((layers, experts), np.bool_), np.zeros((layers, experts))
        for item in self.loaded:
            loaded_LF[item] = True
            rate_LF[item] = rates.get(item, 1.0) / self.replicas.get(item, 1)
        return pack_load(WorkerLoad(loaded_LF, rate_LF, 120.0, self.busy, float(rate_LF.sum())))

    def Open(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Rendezvous(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    def Generate(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def GenerateMany(self, messages: Any, context: Any) -> Any:
        raise NotImplementedError

    def Pages(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Describe(self, request: Any, context: Any) -> Any:
        await self._hold("Describe")
        loaded = pack_experts(*np.array(sorted(self.loaded), np.int64).reshape(-1, 2).T)
        return expert_pb2.ExpertDescription(
            worker_id=self.worker_id, boot_id=self.boot_id, epoch=self.epoch, loaded=loaded
        )

    async def _hold(self, call: str) -> None:
        if call in self.holds:
            self.held += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.held -= 1
