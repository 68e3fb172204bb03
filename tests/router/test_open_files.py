"""A router under a low limit of open files: it raises what it may, then lets connections wait and says so."""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.tiny_checkpoint import PLAIN, make_checkpoint

from services.process.open_files import most_connections

pytestmark = pytest.mark.processes

REPO = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto"))
CLIENTS = 400
REQUEST = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("files") / "model", PLAIN)


@contextmanager
def limited_router(model: Path, log: Path, soft: int, hard: int) -> Iterator[tuple[int, int]]:
    """A router that starts under these limits; yields its port and the limit that it logs."""
    env = {**os.environ, "PYTHONPATH": PATHS, "CARACAL_MODEL": str(model), "CARACAL_PORT": "0"}
    env |= {"CARACAL_GRPC_PORT": "0", "CARACAL_ADMIN_PORT": "0", "CARACAL_REDIS_URL": "redis://127.0.0.1:1/0"}
    with log.open("wb") as sink:
        process = subprocess.Popen([sys.executable, "-m", "services.router"], env=env, stderr=sink)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    try:
        while not (lines := [line for line in log.read_text().splitlines() if "router listens" in line]):
            assert process.poll() is None
        listening = json.loads(lines[0])
        yield int(listening["http"].rpartition(":")[2]), listening["open_files"]
    finally:
        process.kill()
        process.wait()


def answered(clients: list[socket.socket], wanted: int) -> set[socket.socket]:
    """Those of the clients that have got an answer, once `wanted` have; nobody may lose the connection."""
    found: set[socket.socket] = set()
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while len(found) < wanted:
            ready = selector.select(20)
            assert ready, f"{len(found)} answers of {wanted}"
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                found.add(client := key.fileobj)
                assert client.recv(4096).startswith(b"HTTP/1.1 200 OK"), "closed without an answer"
                selector.unregister(client)
    return found


def test_the_soft_limit_is_raised_to_the_hard_one(model: Path, tmp_path: Path) -> None:
    with limited_router(model, tmp_path / "log", 256, 2000) as (port, limit), ExitStack() as stack:
        assert limit == 2000
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(REQUEST)
        answered(clients, CLIENTS)


def test_at_the_limit_connections_wait_and_one_line_says_so(model: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with limited_router(model, log, 256, 256) as (port, limit), ExitStack() as stack:
        assert limit == 256
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(REQUEST)
        waiting = clients
        while waiting:  # those that have their answer make room for others
            served = answered(waiting, min(len(waiting), 64))
            for client in served:
                client.close()
            waiting = [client for client in waiting if client not in served]
        assert log.read_text().count("as many connections as files may be open") == 1
        assert "few files may be open" in log.read_text()


@pytest.mark.parametrize("sent", [b"", b"GET /health"])
def test_silent_connections_make_room_for_a_client_that_asks(model: Path, tmp_path: Path, sent: bytes) -> None:
    with limited_router(model, tmp_path / "log", 256, 256) as (port, _), ExitStack() as stack:
        for _ in range(2 * most_connections(256)):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(sent)
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        client.sendall(REQUEST)
        answered([client], 1)
