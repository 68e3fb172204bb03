"""Expert workers and exchanges over a tiny checkpoint: real gRPC servers on loopback, in this process or in children.

Legend: T tokens, D hidden, E gate outputs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from caracal_proto import placement_pb2
from torch import Tensor

from services.checkpoint import Checkpoint
from services.expert_worker.batcher import Batcher, Compute
from services.expert_worker.experts import Experts
from services.expert_worker.holding import Holding
from services.expert_worker.server import ExpertServer
from services.expert_worker.service import ExpertService
from services.router.dispatch.exchange import Exchange
from services.router.dispatch.grpc_link import GrpcLink

REPO = Path(__file__).resolve().parent.parent


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


class Worker:
    """An expert worker on this process's threads. `compute` may be exchanged before it starts."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, name: str, compute: Compute | None = None) -> None:
        self.experts = Experts(checkpoint, dtype)
        self.holding = Holding(self.experts, name, f"boot-{name}", "class-of-the-test")
        self.batcher = Batcher(compute or self.experts.compute)
        self.service = ExpertService(self.holding, self.batcher)
        self._server = ExpertServer(self.service, max_sessions=16)
        port = self._server.start("127.0.0.1", 0)
        self.endpoint = placement_pb2.Endpoint(worker_id=name, boot_id=f"boot-{name}", address=f"127.0.0.1:{port}")

    def take(self, table: placement_pb2.Table) -> None:
        """Both phases of a placement."""
        mine = wanted(table, self.endpoint.worker_id)
        self.holding.prepare(table.epoch, mine, lambda done, total: None)
        self.holding.commit(table)

    def stop(self) -> None:
        self._server.stop(0)


class Child:
    """An expert worker in a process of its own, to be killed."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype, name: str, slow_s: float = 0.0) -> None:
        path = os.pathsep.join(str(REPO / p) for p in ("", "kernels", "proto", "tests"))
        arguments = [sys.executable, __file__, str(checkpoint), str(dtype).removeprefix("torch."), name, str(slow_s)]
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout
        address = self.process.stdout.readline().strip()
        assert address, "the child died"
        self.endpoint = placement_pb2.Endpoint(worker_id=name, boot_id=f"boot-{name}", address=address)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


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


@contextmanager
def workers(checkpoint: Checkpoint, dtype: torch.dtype, count: int) -> Iterator[list[Worker]]:
    running = [Worker(checkpoint, dtype, f"w{i}") for i in range(count)]
    try:
        yield running
    finally:
        for worker in running:
            worker.stop()


@contextmanager
def exchange(checkpoint: Checkpoint, connect: Any = GrpcLink, **options: Any) -> Iterator[Exchange]:
    made = Exchange(connect, checkpoint.config, **options)
    try:
        yield made
    finally:
        made.close()


def run(exchange: Any, layer: int, gate: Gate, batch: Batch) -> Tensor:
    """One MoE layer through an exchange."""
    out_TD: Tensor = exchange.start(layer, batch.h_TD, gate, batch).finish(batch.residual_TD)
    return out_TD


def main() -> None:
    """A child: serves every expert of the checkpoint, says where, and ends with its parent's pipe."""
    import time

    path, dtype, name, slow_s = sys.argv[1:]
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(Path(path))
    worker = Worker(checkpoint, getattr(torch, dtype), name)
    for layer in range(checkpoint.config.num_layers):
        for expert in range(checkpoint.config.n_routed_experts):
            worker.experts.load(layer, expert)
    compute = worker.experts.compute

    def slowly(layer: int, x_RD: Tensor, row_P: Tensor, expert_P: Tensor) -> Tensor:
        time.sleep(float(slow_s))
        return compute(layer, x_RD, row_P, expert_P)

    worker.service._batcher = Batcher(slowly)
    print(worker.endpoint.address, flush=True)
    while os.getppid() != 1:
        time.sleep(0.2)


if __name__ == "__main__":
    main()
