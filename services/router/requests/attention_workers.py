"""The attention workers this router knows, the channels to them, and what it has open on each.

Keeps the last list while membership cannot be read. Who gets a sequence is decided in `choice.py`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc
import grpc.aio
import structlog
from caracal_proto import attention_pb2
from caracal_proto.attention_pb2_grpc import AttentionStub

from services.router.requests.stall_detector import OpenAttempt, StallDetector, StallTimeouts
from services.router.requests.worker_choice import AttentionWorker, choose_worker

log = structlog.get_logger(__name__)

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.max_receive_message_length", 64 << 20),
    # A worker that comes back on its old address must be found within a second, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)
LINGER_S = 3.0  # a worker that is no longer listed is kept for as long as its lease could have lasted
HOLD_S = 30.0  # for so long after the last worker went, another is expected in its place: it restarts or is replaced
CONNECT_S = 2.0
ANSWER_S = 1.5  # for a Describe, which no worker is too busy to answer


class WorkerDirectory(Protocol):
    """Where the attention workers come from."""

    async def attention_workers(self) -> Sequence[AttentionWorker]:
        """The workers alive now. Raises DirectoryUnavailable when nobody can say."""
        ...


class DirectoryUnavailable(Exception):
    """Membership cannot be read now; the last list goes on."""


@dataclass(frozen=True, slots=True)
class StaticDirectory:
    """A list that does not change: tests, and clusters without Redis."""

    workers: Sequence[AttentionWorker]

    async def attention_workers(self) -> Sequence[AttentionWorker]:
        return self.workers


class AttentionWorkerPool:
    """One per router process; everything on its event loop."""

    def __init__(
        self,
        directory: WorkerDirectory,
        *,
        max_model_len: int,
        refresh_s: float = 0.5,
        hold_s: float = HOLD_S,
        timeouts: StallTimeouts = StallTimeouts(),  # noqa: B008  frozen
    ) -> None:
        self._directory = directory
        self._refresh_s, self._hold_s = refresh_s, hold_s
        self._model_limit = max_model_len
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._limits: dict[tuple[str, str], int] = {}  # by (worker id, boot id)
        self._changed = asyncio.Event()
        self._stalls = StallDetector(self._answers, timeouts)
        self._listed_at: dict[str, float] = {}  # by worker id
        self._served_at = -math.inf
        self.workers: tuple[AttentionWorker, ...] = ()
        self.open_on: Counter[str] = Counter()
        self.attempts: set[OpenAttempt] = set()

    @property
    def max_model_len(self) -> int:
        """Tokens a sequence may have: the model's context, or less when every worker that can say holds less."""
        known = [limit for worker in self.workers if (limit := self._limits.get((worker.worker_id, worker.boot_id)))]
        return min(self._model_limit, max(known)) if known else self._model_limit

    @property
    def serving(self) -> bool:
        """Whether some worker takes sequences now."""
        return any(worker.serving for worker in self.workers)

    def not_ready(self) -> str | None:
        """Why new requests are sent away; None while they are served, or wait for a worker that is expected."""
        if self.serving or time.monotonic() - self._served_at < self._hold_s:
            return None
        if not self.workers:
            return "no attention worker"
        if all(worker.draining for worker in self.workers):
            return "every attention worker is draining"
        return "no attention worker has a placement table yet"

    def choose(self, numerics_class: str | None, avoid: Collection[str]) -> AttentionWorker | None:
        return choose_worker(
            self.workers, self.open_on, numerics_class=numerics_class, avoid={*avoid, *self._stalls.suspects}
        )

    async def channel(self, worker: AttentionWorker) -> grpc.aio.Channel | None:
        """A connected channel, or None when the worker cannot be reached."""
        channel = self._channels.get(worker.address)
        if channel is None:
            channel = grpc.aio.insecure_channel(worker.address, options=CHANNEL_OPTIONS)
            self._channels[worker.address] = channel
        state = channel.get_state(try_to_connect=True)
        deadline = time.monotonic() + CONNECT_S
        while state is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE or time.monotonic() > deadline:
                return None
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await channel.wait_for_state_change(state)
            except TimeoutError:
                return None
            state = channel.get_state(try_to_connect=True)
        return channel

    async def wait_for_change(self, timeout: float) -> None:
        """Until the list was read anew, or the time is up."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Reads the list again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._refresh_s)

    async def refresh(self) -> None:
        """Reads the list once; gives up attempts whose worker is gone and silent."""
        try:
            self.workers = self._with_lingering(await self._directory.attention_workers())
        except DirectoryUnavailable:
            log.debug("membership unavailable, keeping the last list", workers=len(self.workers))
        if self.serving:
            self._served_at = time.monotonic()
        await asyncio.gather(*(self._describe(worker) for worker in self.workers if worker.serving))
        self._stalls.look(self.workers, self.attempts)
        await self._close_unused()
        self._changed.set()
        self._changed = asyncio.Event()

    def _with_lingering(self, listed: Sequence[AttentionWorker]) -> tuple[AttentionWorker, ...]:
        """The list, and those who were on it a moment ago: a Redis that comes back empty must not empty the cluster."""
        now = time.monotonic()
        self._listed_at |= {worker.worker_id: now for worker in listed}
        self._listed_at = {worker_id: at for worker_id, at in self._listed_at.items() if now - at < LINGER_S}
        on_it = {worker.worker_id for worker in listed}
        lingering = (worker for worker in self.workers if worker.worker_id not in on_it and not worker.draining)
        return (*listed, *(worker for worker in lingering if worker.worker_id in self._listed_at))

    async def close(self) -> None:
        self._stalls.close()
        for channel in self._channels.values():
            await channel.close(None)
        self._channels.clear()

    async def _describe(self, worker: AttentionWorker) -> None:
        """Learns the sequence length that a new worker can hold."""
        key = (worker.worker_id, worker.boot_id)
        if key in self._limits:
            return
        about = await self._ask(worker)
        if about is not None:
            pages = about.kv_pages_total * about.page_size
            self._limits[key] = min(limit for limit in (about.max_model_len, pages, self._model_limit) if limit)

    async def _answers(self, worker: AttentionWorker) -> bool:
        return await self._ask(worker) is not None

    async def _ask(self, worker: AttentionWorker) -> attention_pb2.AttentionDescription | None:
        channel = await self.channel(worker)
        if channel is None:
            return None
        try:
            return await AttentionStub(channel).Describe(attention_pb2.AttentionDescribeRequest(), timeout=ANSWER_S)
        except grpc.aio.AioRpcError as error:
            log.info("worker does not describe itself", worker=worker.worker_id, code=error.code().name)
            return None

    async def _close_unused(self) -> None:
        wanted = {worker.address for worker in self.workers} | {attempt.worker.address for attempt in self.attempts}
        for address in self._channels.keys() - wanted:
            await self._channels.pop(address).close(None)
