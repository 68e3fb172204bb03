"""Opens native sessions: the expert worker's Open rpc, then a connection that shows the token it returned."""

from __future__ import annotations

import contextlib
import socket
from typing import NamedTuple

import grpc
from caracal_proto import expert_pb2, expert_pb2_grpc, placement_pb2

from services.process.addresses import authority
from services.security.channels import PLAIN, Dialer
from services.security.identity import EXPERT
from services.transport.native_extension import native

HANDSHAKE_S = 2.0  # for each step of an opening


class NotOpened(ConnectionError):
    """The worker did not open a native session."""


class Opened(NamedTuple):
    """A session that the worker has welcomed."""

    socket: socket.socket
    session: int
    over_unix: bool
    max_rows: int  # of a call
    max_assignments: int
    keys: bytes  # that its frames are encrypted with; empty: they are not


def open_session(endpoint: placement_pb2.Endpoint, dialer: Dialer = PLAIN) -> Opened:
    """Opens one session, by the unix socket where this process can reach it. Blocks. Raises NotOpened."""
    with dialer.threaded(endpoint.address, EXPERT, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = expert_pb2_grpc.ExpertStub(dialer.to_run(channel, endpoint.boot_id))
        try:
            place = stub.Open(expert_pb2.OpenRequest(), timeout=HANDSHAKE_S)
        except grpc.RpcError as error:
            why = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)
            raise NotOpened(why) from None
    if dialer.encrypts != bool(place.keys):
        raise NotOpened(
            "the worker gave no keys, and TLS is on" if dialer.encrypts else "the worker gave keys without TLS"
        )
    try:
        connected, over_unix = _connect(place)
    except OSError as error:
        raise NotOpened(f"{authority(place.host, place.port)}: {error}") from None
    try:
        _greet(connected, place)
    except (OSError, ValueError) as error:
        connected.close()
        raise NotOpened(f"the greeting failed: {error}") from None
    except NotOpened:
        connected.close()
        raise
    connected.setblocking(False)
    return Opened(connected, place.session, over_unix, place.max_rows, place.max_assignments, place.keys)


def _connect(place: expert_pb2.OpenReply) -> tuple[socket.socket, bool]:
    """The connection, and whether it is a unix socket. Raises OSError."""
    with contextlib.suppress(OSError):  # another machine, or another network namespace
        return _connect_locally(place.unix_name), True
    connected = socket.create_connection((place.host, place.port), HANDSHAKE_S)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connected, False


def _connect_locally(name: str) -> socket.socket:
    """A connection to an abstract unix socket. Raises OSError."""
    local = socket.socket(socket.AF_UNIX)
    try:
        local.settimeout(HANDSHAKE_S)
        local.connect("\0" + name)
    except OSError:
        local.close()
        raise
    return local


def _greet(connected: socket.socket, place: expert_pb2.OpenReply) -> None:
    """Shows the token and waits for the welcome. Raises NotOpened, OSError, ValueError for keys that are none."""
    module = native()
    connected.settimeout(HANDSHAKE_S)
    connected.sendall(module.hello(place.session, place.token, place.keys))
    welcome, whole = b"", module.welcome_bytes(place.keys)
    while len(welcome) < whole:
        more = connected.recv(whole - len(welcome))
        if not more:
            break
        welcome += more
    if why := module.welcome_fault(welcome, place.session, place.keys):
        raise NotOpened(why)
