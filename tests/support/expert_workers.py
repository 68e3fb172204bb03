"""Expert workers and dispatchers over a tiny checkpoint: real gRPC servers on loopback.

Legend: T tokens, D hidden, A (row, expert) assignments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import torch
from caracal_kernels import GateWeights
from caracal_proto import expert_pb2, placement_pb2
from caracal_proto.placements import layer_of, workers_of
from support.native_proxy import NativeProxy
from torch import Tensor

from services.checkpoint.reader import Checkpoint
from services.expert_worker.batcher import Batcher, Compute
from services.expert_worker.experts import Experts
from services.expert_worker.native_server import NativeServer
from services.expert_worker.p2p_registry import P2PRegistry
from services.expert_worker.placement_state import PlacementState
from services.expert_worker.server import ExpertServer
from services.expert_worker.service import ExpertService
from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.links import Connect, ExpertOutput, ExpertRequest, Link
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.dispatch.native_fanout import NativeFanout, NativeOptions
from services.router.dispatch.native_link import NativeLink, NativeStats
from services.router.dispatch.nccl_link import NcclLink, P2POptions, P2PStats
from services.security.channels import PLAIN, Dialer
from services.security.guard import Guard
from services.security.tls import NO_TLS, Tls
from services.transport.limits import MAX_ROWS
from services.transport.payload import payload_bytes

REPO = Path(__file__).resolve().parents[2]

LINKS = ("grpc", "nccl", "native")
MAX_TOKENS = 64  # of one layer call
FIRST_CONNECT_S = 2.0
MAX_SESSIONS = 16  # of a worker

Fault = Callable[[expert_pb2.ExpertReply], expert_pb2.ExpertReply | None]


@dataclass(frozen=True)
class Batch:
    """One layer's input; also the part of a step that a dispatcher reads."""

    number: int
    positions_T: Tensor
    h_TD: Tensor
    residual_TD: Tensor


def gates(checkpoint: Checkpoint) -> list[GateWeights]:
    prefix = "model.layers.{}.mlp.router."
    read = checkpoint.tensor
    return [
        GateWeights(
            read(prefix.format(layer) + "classifier.weight", torch.float32),
            read(prefix.format(layer) + "e_score_correction_bias", torch.float32),
        )
        for layer in range(checkpoint.config.num_layers)
    ]


def random_batch(number: int, hidden: int, dtype: torch.dtype, tokens: int | None = None) -> Batch:
    generator = torch.Generator().manual_seed(number)
    size = tokens or int(torch.randint(1, 24, (), generator=generator))
    return Batch(
        number,
        torch.randint(0, 500, (size,), generator=generator, dtype=torch.int32),
        torch.randn(size, hidden, generator=generator).to(dtype),
        torch.randn(size, hidden, generator=generator).to(dtype),
    )


class WaitingNcclLink(NcclLink):
    """Waits for its first P2P group before its first call, so that all calls of a test go over one until it breaks.

    An engine must not wait like this.
    """

    waited = False

    def dispatch(self, request: ExpertRequest) -> Future[ExpertOutput]:
        if not self.waited:
            self.waited = True
            self.connect_p2p(FIRST_CONNECT_S)
        return super().dispatch(request)


class WaitingFanout(NativeFanout):
    """Waits for the first session with each worker, so that all calls of a test go over it until it breaks.

    An engine must not wait like this.
    """

    def __init__(self, options: NativeOptions, dialer: Dialer = PLAIN) -> None:
        super().__init__(options, dialer)
        self._waited: set[str] = set()

    def __call__(self, endpoint: placement_pb2.Endpoint) -> Link:
        link = super().__call__(endpoint)
        assert isinstance(link, NativeLink)
        if endpoint.address not in self._waited and (opening := link.start_opening()) is not None:
            self._waited.add(endpoint.address)
            opening.join(FIRST_CONNECT_S)
        return link


def connecting(
    link: str,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    stats: P2PStats | None = None,
    dispatch_dtype: torch.dtype | None = None,
    native_stats: NativeStats | None = None,
    waits: bool = True,
    dialer: Dialer = PLAIN,
) -> Connect:
    """Returns what opens links of one kind to workers of a checkpoint; without `waits` as an engine does."""
    if link == "native":
        fanout = WaitingFanout if waits else NativeFanout
        return fanout(NativeOptions(dtype, dispatch_dtype or dtype, native_stats or NativeStats()), dialer)
    nccl = WaitingNcclLink if waits else NcclLink
    config = checkpoint.config
    options = P2POptions(
        host="127.0.0.1",
        max_rows=MAX_TOKENS,
        max_assignments=MAX_TOKENS * config.moe_topk,
        hidden=config.hidden_size,
        dtype=dtype,
        dispatch_dtype=dispatch_dtype or dtype,
        device=torch.device("cpu"),
        stats=stats or P2PStats(),
    )
    return lambda endpoint: (
        nccl(endpoint, options) if link == "nccl" else GrpcLink(endpoint, dispatch_dtype=dispatch_dtype)
    )


class Cover(Protocol):
    """What stands between callers and a worker's native sessions."""

    def cover(self, place: expert_pb2.OpenReply) -> expert_pb2.OpenReply:
        """The same place, reached through it."""
        ...


class FaultyService(ExpertService):
    """Records calls, and replies through `fault`, which may change a reply, drop it (None) or raise."""

    def __init__(
        self,
        state: PlacementState,
        batcher: Batcher,
        p2p: bool,
        dispatch_dtype: torch.dtype | None,
        encrypted: bool = False,
    ) -> None:
        max_bytes = payload_bytes(MAX_ROWS, state.experts.hidden, dispatch_dtype or state.experts.dtype)
        registry = P2PRegistry("127.0.0.1", torch.device("cpu"), max_bytes) if p2p else None
        super().__init__(state, batcher, registry, dispatch_dtype, MAX_SESSIONS)
        self.calls: list[expert_pb2.ExpertCall] = []
        self.fault: Fault = lambda reply: reply
        self._encrypted = encrypted
        self.native = self.new_native(state, batcher)
        self.direct = False  # native sessions reach the worker itself, unseen by `calls` and `fault`
        self.proxy: Cover = NativeProxy(self.calls.append, lambda reply: self.fault(reply))

    def new_native(self, state: PlacementState, batcher: Batcher, direct: bool = False) -> NativeServer:
        """A server of native sessions, which nobody has opened yet. `direct`: past `around` and `corrupt`."""
        host = "127.0.0.1"
        return NativeServer(
            state,
            batcher,
            self.expected,
            host=host,
            reachable_host=host,
            max_sessions=MAX_SESSIONS,
            direct=direct,
            encrypted=self._encrypted,
        )

    def Open(self, request: expert_pb2.OpenRequest, context: grpc.ServicerContext) -> expert_pb2.OpenReply:
        place = super().Open(request, context)
        return place if self.direct else self.proxy.cover(place)

    def Session(
        self, request_iterator: Iterator[expert_pb2.ExpertCall], context: grpc.ServicerContext
    ) -> Iterator[expert_pb2.ExpertReply]:
        replies = super().Session(self._record(request_iterator), context)
        for reply in replies:
            changed = self.fault(reply)
            if changed is not None:
                yield changed

    def _record(self, calls: Iterator[expert_pb2.ExpertCall]) -> Iterator[expert_pb2.ExpertCall]:
        for call in calls:
            self.calls.append(call)
            yield call


class Worker:
    """An expert worker on this process's threads."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        name: str,
        around: Callable[[Compute], Compute] = lambda compute: compute,
        p2p: bool = True,
        dispatch_dtype: torch.dtype | None = None,
        tls: Tls = NO_TLS,
    ) -> None:
        self.experts = experts = Experts(checkpoint, dtype)
        self.state = PlacementState(experts, name, f"boot-{name}", "class-of-the-test")
        self.corrupt: Callable[[Tensor], Tensor] = lambda y_AD: y_AD
        compute = around(experts.compute)
        self.batcher = Batcher(lambda *call: self.corrupt(compute(*call)), experts.num_layers, experts.num_ffn)
        self.service = FaultyService(self.state, self.batcher, p2p, dispatch_dtype, tls.given)
        self.server = ExpertServer(self.service, MAX_SESSIONS, guard=Guard(tls=tls))
        port = self.server.start("127.0.0.1", 0)
        self.endpoint = placement_pb2.Endpoint(worker_id=name, boot_id=f"boot-{name}", address=f"127.0.0.1:{port}")

    def apply(self, table: placement_pb2.Table) -> None:
        """Prepares and commits a table."""
        mine = wanted(table, self.endpoint.worker_id)
        self.state.prepare(table.epoch, mine, lambda done, total: None)
        self.state.commit(table)

    def stop(self) -> None:
        self.server.stop(0)
        if self.service.native is not None:
            self.service.native.stop()


def slowly(slow_s: float) -> Callable[[Compute], Compute]:
    def around(compute: Compute) -> Compute:
        def slow(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
            time.sleep(slow_s)
            return compute(layer, x_RD, row_A, expert_A)

        return slow

    return around


def place(
    epoch: int,
    checkpoint: Checkpoint,
    endpoints: Iterable[placement_pb2.Endpoint],
    replicas: Callable[[int, int], list[int]],
) -> placement_pb2.Table:
    """Returns a table in which `replicas(layer, expert)` are the workers of each expert."""
    config = checkpoint.config
    layers = [
        layer_of(sorted(replicas(layer, expert)) for expert in range(config.n_routed_experts))
        for layer in range(config.num_layers)
    ]
    return placement_pb2.Table(epoch=epoch, workers=list(endpoints), layers=layers)


def wanted(table: placement_pb2.Table, name: str) -> list[tuple[int, int]]:
    """Returns (layer, expert) of everything the table gives to a worker."""
    return [
        (layer, expert)
        for layer, placement in enumerate(table.layers)
        for expert, replicas in enumerate(workers_of(placement))
        if any(table.workers[worker].worker_id == name for worker in replicas)
    ]


def load_everything(experts: Experts) -> Experts:
    for layer in range(experts.num_layers):
        for expert in range(experts.num_ffn):
            experts.load(layer, expert)
    return experts


@contextmanager
def workers(checkpoint: Checkpoint, dtype: torch.dtype, count: int, **options: Any) -> Iterator[list[Worker]]:
    running = [Worker(checkpoint, dtype, f"w{i}", **options) for i in range(count)]
    try:
        yield running
    finally:
        for worker in running:
            worker.stop()


@contextmanager
def open_dispatcher(checkpoint: Checkpoint, connect: Any = GrpcLink, **options: Any) -> Iterator[MoEDispatcher]:
    dispatcher = MoEDispatcher(connect, checkpoint.config, **options)
    try:
        yield dispatcher
    finally:
        dispatcher.close()


def run(dispatcher: Any, layer: int, gate: GateWeights, batch: Batch) -> Tensor:
    """Runs one MoE layer."""
    out_TD: Tensor = dispatcher.start(layer, batch.h_TD, gate, batch).finish(batch.residual_TD)
    return out_TD
