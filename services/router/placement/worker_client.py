"""The leader's gRPC client to the workers: channels, and calls that all fail with CallFailed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Collection, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy as np
from caracal_proto.attention_pb2 import AttentionDescribeRequest
from caracal_proto.attention_pb2_grpc import AttentionStub
from caracal_proto.expert_pb2 import (
    ExpertDescribeRequest,
    ExpertTensor,
    LoadReply,
    LoadRequest,
    PrepareRequest,
    TensorsRequest,
)
from caracal_proto.expert_pb2_grpc import ExpertStub
from caracal_proto.placements import PlacementError, pack_experts, unpack_experts
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from numpy.typing import NDArray

from services.membership.record import WorkerRecord
from services.process.loop_time import within
from services.router.placement.table_view import Items
from services.security.channels import PLAIN, Dialer

QUICK_S = 2.0
PROBE_S = 0.5
LOAD_S = 1800.0  # a worker may read a terabyte; its death is noticed by the worker registry
OPTIONS = (
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.use_local_subchannel_pool", 1),
)
PUSH = {"attention": "/caracal.Attention/ApplyTable", "expert": "/caracal.Expert/Commit"}
Reply = TypeVar("Reply")


class CallFailed(Exception):
    """Expected: a worker did not do what it was asked; the message names it and says why."""


class EpochTaken(CallFailed):
    """Expected: a worker has another table of the epoch that it is given."""


class Workers:
    """Channels to every worker the leader knows."""

    def __init__(self, dialer: Dialer = PLAIN) -> None:
        self._dialer = dialer
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}
        self._states: dict[tuple[str, str], grpc.ChannelConnectivity] = {}
        self._watchers: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def state(self, record: WorkerRecord) -> grpc.ChannelConnectivity:
        """Returns the state of the connection, and opens it when there is none."""
        self._channel(record)
        return self._states[record.address, record.boot_id]

    def wake(self) -> None:
        """Ends `wait_for_change`."""
        self._changed.set()

    async def wait_for_change(self, seconds: float) -> None:
        """Waits until the state of a connection has changed or `wake` is called, for `seconds` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        self._changed.clear()

    async def probe(self, record: WorkerRecord) -> bool:
        """Returns whether the worker answers the standard health check in time; that this process lags is no matter."""
        stub = HealthStub(self._channel(record))
        try:
            await within(PROBE_S, _call(record, stub.Check(HealthCheckRequest())))  # type: ignore[attr-defined]  # the stubs lack it
        except (CallFailed, TimeoutError):
            return False
        return True

    async def epoch(self, record: WorkerRecord) -> int:
        """Asks an attention worker for the epoch of its table. Raises CallFailed."""
        stub = AttentionStub(self._signed(record))
        return (await _call(record, stub.Describe(AttentionDescribeRequest(), timeout=QUICK_S))).epoch

    async def loaded(self, record: WorkerRecord, experts: int) -> tuple[int, Items]:
        """Asks an expert worker for its epoch, and which experts it has loaded. Raises CallFailed."""
        stub = ExpertStub(self._signed(record))
        about = await _call(record, stub.Describe(ExpertDescribeRequest(), timeout=QUICK_S))
        try:
            layer_N, expert_N = unpack_experts(about.loaded)
        except PlacementError as error:
            raise CallFailed(f"{record.worker_id}: {error}") from None
        return about.epoch, layer_N[expert_N < experts] * experts + expert_N[expert_N < experts]

    async def prepare(self, record: WorkerRecord, epoch: int, item_N: Items, experts: int) -> NDArray[np.uint64]:
        """Makes an expert worker load and warm experts; returns their golden digests, [N]. Raises CallFailed."""
        request = PrepareRequest(epoch=epoch, experts=pack_experts(item_N // experts, item_N % experts))
        reply = await _call(record, ExpertStub(self._signed(record)).Prepare(request, timeout=LOAD_S))
        if len(reply.digests) != 8 * len(item_N):
            raise CallFailed(f"{record.worker_id} gave {len(reply.digests)} bytes of digests of {len(item_N)} experts")
        return np.frombuffer(reply.digests, "<u8").astype(np.uint64)

    async def tensors(self, record: WorkerRecord, layer: int, expert: int) -> Sequence[ExpertTensor]:
        """Asks an expert worker what it has read for an expert. Raises CallFailed, also if it has not loaded it."""
        request = TensorsRequest(layer=layer, expert=expert)
        reply = await _call(record, ExpertStub(self._signed(record)).Tensors(request, timeout=QUICK_S))
        return reply.tensors

    async def load(self, record: WorkerRecord) -> LoadReply:
        """Asks an expert worker for its load. Raises CallFailed."""
        return await _call(record, ExpertStub(self._signed(record)).Load(LoadRequest(), timeout=QUICK_S))

    async def push(self, record: WorkerRecord, message: bytes) -> None:
        """Publishes a table, serialized for the worker's role. Raises EpochTaken, CallFailed."""
        call: Any = self._signed(record).unary_unary(PUSH[record.role])
        await _call(record, call(message, timeout=QUICK_S))

    async def keep_only(self, records: Collection[WorkerRecord]) -> None:
        """Closes the channels to all other workers."""
        wanted = {(record.address, record.boot_id) for record in records}
        for key in self._channels.keys() - wanted:
            self._watchers.pop(key).cancel()
            del self._states[key]
            await self._channels.pop(key).close(None)

    async def close(self) -> None:
        await self.keep_only(())

    def _signed(self, record: WorkerRecord) -> grpc.aio.Channel:
        return self._dialer.to_run(self._channel(record), record.boot_id)

    def _channel(self, record: WorkerRecord) -> grpc.aio.Channel:
        key = record.address, record.boot_id
        if key not in self._channels:
            channel = self._channels[key] = self._dialer.aio(record.address, record.role, OPTIONS)
            self._states[key] = channel.get_state(try_to_connect=True)
            self._watchers[key] = asyncio.create_task(self._watch(key, channel))
        return self._channels[key]

    async def _watch(self, key: tuple[str, str], channel: grpc.aio.Channel) -> None:
        while True:
            await channel.wait_for_state_change(self._states[key])
            self._states[key] = channel.get_state(try_to_connect=True)
            self._changed.set()


async def _call(record: WorkerRecord, call: Awaitable[Reply]) -> Reply:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        failed = EpochTaken if error.code() is grpc.StatusCode.ALREADY_EXISTS else CallFailed
        raise failed(f"{record.worker_id}: {error.code().name}: {error.details()}") from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # `keep_only` has closed the channel: nobody wants this task to end.
        raise CallFailed(f"{record.worker_id} is gone") from None
