"""Two nodes on one switch, each with a router, an attention and an expert worker; one of them is cut off.

Needs the right to make network namespaces, as root has it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from bench.nodes import Nodes
from bench.processes import redis_binary
from bench.stalls.beds import WHOLE_S, WORKERS, until_whole
from bench.stalls.faults import Fault, NotInjected, Unplugged
from services.membership.redis import Membership

NAMES = ("left", "right")
ROLES = ("router", "attention_worker", "expert_worker")
PORT, HTTP_PORT, REDIS_PORT = 8001, 8000, 6379


class NodeBed:
    """In every other round the other node is cut off, so that the placement's leader is on it in some."""

    def __init__(self, nodes: Nodes, membership: Membership) -> None:
        self._nodes, self._membership = nodes, membership

    async def target(self, round_: int) -> str:
        return f"{self._nodes.address(NAMES[(round_ + 1) % 2])}:{PORT}"

    async def fault(self, round_: int) -> Fault:
        return Unplugged(self._nodes, NAMES[round_ % 2], PORT)

    async def whole(self) -> None:
        for name in NAMES:
            await _until_ready(f"http://{self._nodes.address(name)}:{HTTP_PORT}/ready")
        await until_whole(self._membership, WORKERS, WORKERS)

    async def served_again(self) -> float:
        raise NotImplementedError("nobody dies here")


@asynccontextmanager
async def node_bed(model: Path) -> AsyncIterator[NodeBed]:
    """Raises NotInjected where nodes cannot be made."""
    if os.geteuid() != 0:
        raise NotInjected("network namespaces need root")
    with tempfile.TemporaryDirectory() as logs, Nodes(*NAMES) as nodes, _redis(nodes.here) as url:
        for number, name in enumerate(NAMES):
            for role in ROLES:
                _start(nodes, name, role, number, Path(logs), model, url)
        membership = Membership(url)
        try:
            yield NodeBed(nodes, membership)
        finally:
            await membership.close()


def _start(nodes: Nodes, node: str, role: str, number: int, logs: Path, model: Path, redis_url: str) -> None:
    worker_id = f"{role.removesuffix('_worker')}-{number}"
    nodes.start(
        node,
        f"services.{role}",
        logs / f"{worker_id}.log",
        CARACAL_MODEL=str(model),
        CARACAL_REDIS_URL=redis_url,
        CARACAL_WORKER_ID=worker_id,
        CARACAL_ADVERTISE_HOST=nodes.address(node),
        CARACAL_HOST="0.0.0.0",
        CARACAL_GRPC_PORT=str(PORT),
        CARACAL_PORT=str(HTTP_PORT) if role == "router" else "0",
        CARACAL_METRICS_PORT="0",
        CARACAL_PREFIX_CACHE="0",
        CARACAL_REPLICAS=str(WORKERS),
        CARACAL_THREADS="1",
        OMP_NUM_THREADS="1",
        OMP_WAIT_POLICY="passive",
    )


@contextmanager
def _redis(host: str) -> Iterator[str]:
    """A Redis on this process's node; its URL."""
    arguments = ["--port", str(REDIS_PORT), "--bind", host, "--protected-mode", "no", "--save", ""]
    with subprocess.Popen([redis_binary(), *arguments], stdout=subprocess.DEVNULL) as server:
        try:
            yield f"redis://{host}:{REDIS_PORT}/0"
        finally:
            server.terminate()


async def _until_ready(url: str) -> None:
    end = time.monotonic() + WHOLE_S
    while not await asyncio.to_thread(_answers, url):
        if time.monotonic() > end:
            raise NotInjected(f"{url} does not answer with 200")
        await asyncio.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False
