"""Clients that send slowly, or nothing at all: they lose their connections, and no others wait for them."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness
from support.raw_http import Answer, exchange, post

from services.router.connection_times import ConnectionTimeouts, ConnectionTimes

QUICK = ConnectionTimeouts(idle_s=1.0, head_s=0.5, body_s=0.5, body_bytes_per_s=1000, unread_s=0.5)
BODY = b'{"model": "%s", "prompt": "a"}' % MODEL.encode()
HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(scope="module")
def hasty(assets_path: Path) -> Iterator[Harness]:
    with Harness(assets_path, FakeAttention(answers_with([], eos=EOS)), connection_timeouts=QUICK) as harness:
        yield harness


@pytest.fixture
def connection(hasty: Harness) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", hasty.servers.http_port), timeout=20) as connection:
        yield connection


def established(port: int) -> int:
    """How many connections the router has."""
    connections = psutil.Process().net_connections("tcp4")
    return sum(one.laddr.port == port and one.status != psutil.CONN_LISTEN for one in connections)


@pytest.mark.processes
@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_request_in_drops_is_answered_408(connection: socket.socket, cut: int) -> None:
    data = post("/v1/completions", BODY)
    connection.sendall(data[:cut])
    answer = Answer.read(connection)
    assert (answer.status, answer.error["code"]) == (408, "request_timeout")
    assert connection.recv(1) == b""


@pytest.mark.processes
def test_drops_do_not_prolong_the_head(connection: socket.socket) -> None:
    began = time.monotonic()
    connection.settimeout(0.1)
    connection.sendall(b"GET /health HTTP/1.1\r\n")
    received = b""
    while not received:
        assert time.monotonic() < began + 10
        connection.sendall(b"a: b\r\n")
        try:
            received = connection.recv(4096)
        except TimeoutError:
            continue
    assert received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.processes
def test_a_body_that_stops_is_answered_408_and_a_slow_one_is_served(hasty: Harness) -> None:
    slow = post("/v1/completions", BODY + b" " * 4000)
    with socket.create_connection(("127.0.0.1", hasty.servers.http_port), timeout=20) as connection:
        connection.sendall(slow[:1500])
        for begin in range(1500, len(slow), 500):  # 2,500 bytes per second
            time.sleep(0.2)
            connection.sendall(slow[begin : begin + 500])
        assert Answer.read(connection).status == 200
        connection.sendall(slow[:300])
        assert Answer.read(connection).status == 408
    assert exchange(hasty, HEALTH).status == 200


@pytest.mark.processes
def test_silent_connections_are_closed_and_one_that_is_used_is_not(hasty: Harness) -> None:
    address = ("127.0.0.1", hasty.servers.http_port)
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(50)]
        used = stack.enter_context(socket.create_connection(address, timeout=20))
        for _ in range(8):
            used.sendall(HEALTH)
            assert Answer.read(used).status == 200
            time.sleep(0.3)
        assert [one.recv(1) for one in silent] == [b""] * 50


@pytest.mark.processes
def test_a_client_that_never_reads_its_answers_is_cut_off(connection: socket.socket, hasty: Harness) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(0.2)
    request = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
    with contextlib.suppress(OSError):  # the router reads no more, or has gone
        for _ in range(100_000):
            connection.sendall(request)
    deadline = time.monotonic() + 20
    while established(hasty.servers.http_port):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_times_of_a_connection() -> None:
    times = ConnectionTimes(0.0, ConnectionTimeouts())
    assert times.idle
    assert times.late(75.0) is None
    assert times.late(75.1) == "idle"
    times.received(80.0, 5)
    times.received(89.0, 5)
    assert times.late(90.0) is None
    assert times.late(90.1) == "head"
    times.no_head()
    assert times.late(75.0) is None
    times.requested(100.0)
    assert not times.idle
    assert times.late(110.0) is None
    assert times.late(110.1) == "body"
    times.received(110.0, 2048)
    assert times.late(112.0) is None
    assert times.late(112.1) == "body"
    times.has_body()
    assert times.late(1e6) is None, "an answer may take its time"
    times.answered(1e6)
    assert times.idle
    assert times.late(1e6 + 76) == "idle"


def test_what_came_fast_lets_nobody_stop_and_a_hurry_asks_for_more() -> None:
    times = ConnectionTimes(0.0, ConnectionTimeouts())
    times.requested(0.0)
    times.received(1.0, (4 << 20) - 1)
    assert times.late(11.0) is None
    assert times.late(11.1) == "body", "of four megabytes the last byte is missing"
    for second in range(2, 60):
        times.received(float(second), 2048)
        assert times.late(float(second)) is None
    assert times.late(59.0, hurried=True) == "body"
