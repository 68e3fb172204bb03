"""One real expert worker without a router: it holds every expert, and the caller writes the table itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from caracal_proto import expert_pb2, expert_pb2_grpc, placement_pb2
from caracal_proto.placements import layer_of, pack_experts

from bench.processes import PATH, process, redis_server
from services.checkpoint.config import ModelConfig
from services.checkpoint.reader import Checkpoint
from services.local.settings import LocalSettings
from services.process.addresses import free_port

START_S, LOAD_S = 60.0, 300.0
EPOCH = 1
EXPERT = "expert-0"


@dataclass(frozen=True)
class ExpertProcess:
    """An expert worker's process, ready for calls of EPOCH."""

    address: str
    boot_id: str
    pid: int

    def table(self, config: ModelConfig, sessions: int) -> placement_pb2.Table:
        """A table of so many expert workers, all of which this process plays; expert E is on worker E modulo them."""
        ends = [
            placement_pb2.Endpoint(worker_id=f"expert-{number}", boot_id=self.boot_id, address=self.address)
            for number in range(sessions)
        ]
        layer = layer_of([[expert % sessions] for expert in range(config.n_routed_experts)])
        return placement_pb2.Table(epoch=EPOCH, workers=ends, layers=[layer] * config.num_layers)


@contextmanager
def expert_process(checkpoint: Checkpoint, directory: Path, sessions: int) -> Iterator[ExpertProcess]:
    """Yields an expert worker with the settings and the cores of `caracal up`, which takes so many sessions."""
    settings = LocalSettings(model=checkpoint.path, link="native")
    port = free_port()
    with redis_server(directory) as redis_url:
        environment = settings.worker_environment() | settings.cores_environment("expert", 0)
        environment |= {
            "PYTHONPATH": PATH,
            "CARACAL_REDIS_URL": redis_url,
            "CARACAL_WORKER_ID": EXPERT,
            "CARACAL_PORT": str(port),
            "CARACAL_MAX_SESSIONS": str(sessions),
            "CARACAL_DRAIN_TIMEOUT_S": "0",
        }
        command = [sys.executable, "-m", "services.expert_worker"]
        with process(command, directory / f"{EXPERT}.log", **environment) as child:
            address = f"127.0.0.1:{port}"
            yield ExpertProcess(address, _load_everything(address, checkpoint.config), child.pid)


def _load_everything(address: str, config: ModelConfig) -> str:
    """Has the worker load every expert of every layer; returns its boot id."""
    layers, experts = config.num_layers, config.n_routed_experts
    everything = pack_experts(*np.divmod(np.arange(layers * experts), experts))
    with grpc.insecure_channel(address) as channel:
        stub = expert_pb2_grpc.ExpertStub(channel)
        worker = stub.Describe(expert_pb2.ExpertDescribeRequest(), timeout=START_S, wait_for_ready=True)
        stub.Prepare(expert_pb2.PrepareRequest(epoch=EPOCH, experts=everything), timeout=LOAD_S)
        mine = placement_pb2.Endpoint(worker_id=worker.worker_id, boot_id=worker.boot_id, address=address)
        layer = layer_of([[0]] * experts)
        table = placement_pb2.Table(
            epoch=EPOCH, numerics_class=worker.numerics_class, workers=[mine], layers=[layer] * layers
        )
        stub.Commit(expert_pb2.CommitRequest(table=table), timeout=LOAD_S)
    return str(worker.boot_id)
