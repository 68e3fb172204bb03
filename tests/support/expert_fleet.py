"""Expert workers and exchanges over a tiny checkpoint: real gRPC servers on loopback.

Legend: T tokens, D hidden, E gate outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import torch
from caracal_proto import expert_pb2, placement_pb2
from torch import Tensor

from services.checkpoint.reader import Checkpoint
from services.expert_worker.batcher import Batcher, Compute
from services.expert_worker.experts import Experts
from services.expert_worker.p2p_registry import P2PRegistry
from services.expert_worker.placement import PlacementState
from services.expert_worker.server import ExpertServer
from services.expert_worker.service import ExpertService
from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.links import Answer, Connect, ExpertRequest
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.dispatch.nccl_link import NcclLink, P2POptions, P2PStats
from services.transport.payload import MAX_ROWS, payload_bytes

REPO = Path(__file__).resolve().parents[2]

LINKS = ("grpc", "nccl")
MAX_TOKENS = 64  # of one layer call
FIRST_PAIR_S = 2.0
MAX_SESSIONS = 16  # of a worker

Fault = Callable[[expert_pb2.ExpertReply], expert_pb2.ExpertReply | None]


@dataclass(frozen=True)
class Gate:
    classifier_ED: Tensor
    bias_E: Tensor


@dataclass(frozen=True)
class Batch:
    """One layer's input; also the step, as far as an exchange looks at one."""

    number: int
    positions_T: Tensor
    h_TD: Tensor
    residual_TD: Tensor


def gates(checkpoint: Checkpoint) -> list[Gate]:
    prefix = "model.layers.{}.mlp.router."
    read = checkpoint.tensor
    return [
        Gate(
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


class Patient(NcclLink):
    """Waits for its first pair, as no engine should: so all calls of a test go over one until something breaks it."""

    waited = False

    def dispatch(self, request: ExpertRequest) -> Future[Answer]:
        if not self.waited:
            self.waited = True
            self.meet(FIRST_PAIR_S)
        return super().dispatch(request)


def connecting(
    link: str,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    stats: P2PStats | None = None,
    wire: torch.dtype | None = None,
    nccl: type[NcclLink] = Patient,
) -> Connect:
    """A way to workers of a checkpoint, over either link."""
    config = checkpoint.config
    options = P2POptions(
        host="127.0.0.1",
        max_rows=MAX_TOKENS,
        max_pairs=MAX_TOKENS * config.moe_topk,
        hidden=config.hidden_size,
        dtype=dtype,
        wire=wire or dtype,
        device=torch.device("cpu"),
        stats=stats or P2PStats(),
    )
    return lambda endpoint: nccl(endpoint, options) if link == "nccl" else GrpcLink(endpoint, wire=wire)


class FaultyService(ExpertService):
    """Counts what comes in, and answers through `fault`, which may change a reply, swallow it (None) or raise."""

    def __init__(self, state: PlacementState, batcher: Batcher, pairs: bool, wire: torch.dtype | None) -> None:
        max_bytes = payload_bytes(MAX_ROWS, state.experts.hidden, wire or state.experts.dtype)
        made = P2PRegistry("127.0.0.1", torch.device("cpu"), max_bytes) if pairs else None
        super().__init__(state, batcher, made, wire, MAX_SESSIONS)
        self.calls: list[expert_pb2.ExpertCall] = []
        self.fault: Fault = lambda reply: reply

    def Session(
        self, request_iterator: Iterator[expert_pb2.ExpertCall], context: grpc.ServicerContext
    ) -> Iterator[expert_pb2.ExpertReply]:
        replies = super().Session(self._noted(request_iterator), context)
        for reply in replies:
            changed = self.fault(reply)
            if changed is not None:
                yield changed

    def _noted(self, calls: Iterator[expert_pb2.ExpertCall]) -> Iterator[expert_pb2.ExpertCall]:
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
        pairs: bool = True,
        wire: torch.dtype | None = None,
    ) -> None:
        self.experts = Experts(checkpoint, dtype)
        self.state = PlacementState(self.experts, name, f"boot-{name}", "class-of-the-test")
        self.spoil: Callable[[Tensor], Tensor] = lambda y_AD: y_AD
        compute = around(self.experts.compute)
        self.batcher = Batcher(lambda *call: self.spoil(compute(*call)))
        self.service = FaultyService(self.state, self.batcher, pairs, wire)
        self.server = ExpertServer(self.service, MAX_SESSIONS)
        port = self.server.start("127.0.0.1", 0)
        self.endpoint = placement_pb2.Endpoint(worker_id=name, boot_id=f"boot-{name}", address=f"127.0.0.1:{port}")

    def take(self, table: placement_pb2.Table) -> None:
        """Both phases of a placement."""
        mine = wanted(table, self.endpoint.worker_id)
        self.state.prepare(table.epoch, mine, lambda done, total: None)
        self.state.commit(table)

    def stop(self) -> None:
        self.server.stop(0)


def place(
    epoch: int,
    checkpoint: Checkpoint,
    endpoints: Iterable[placement_pb2.Endpoint],
    holders: Callable[[int, int], list[int]],
) -> placement_pb2.Table:
    """A table in which `holders(layer, expert)` are the workers of each expert."""
    config = checkpoint.config
    layers = [
        placement_pb2.LayerPlacement(
            experts=[
                placement_pb2.Replicas(worker=sorted(holders(layer, expert)))
                for expert in range(config.n_routed_experts)
            ]
        )
        for layer in range(config.num_layers)
    ]
    return placement_pb2.Table(epoch=epoch, workers=list(endpoints), layers=layers)


def wanted(table: placement_pb2.Table, name: str) -> list[tuple[int, int]]:
    """(layer, expert) of everything the table gives to a worker."""
    return [
        (layer, expert)
        for layer, placement in enumerate(table.layers)
        for expert, replicas in enumerate(placement.experts)
        if any(table.workers[worker].worker_id == name for worker in replicas.worker)
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
def exchange(checkpoint: Checkpoint, connect: Any = GrpcLink, **options: Any) -> Iterator[MoEDispatcher]:
    made = MoEDispatcher(connect, checkpoint.config, **options)
    try:
        yield made
    finally:
        made.close()


def run(exchange: Any, layer: int, gate: Gate, batch: Batch) -> Tensor:
    """One MoE layer through an exchange."""
    out_TD: Tensor = exchange.start(layer, batch.h_TD, gate, batch).finish(batch.residual_TD)
    return out_TD
