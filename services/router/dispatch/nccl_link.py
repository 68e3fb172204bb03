"""A gRPC session whose payload travels over a P2P group: NCCL between GPUs, gloo between CPUs.

A session starts without a P2P group and serves at once over gRPC; a thread of its own connects the group, and from
then on calls go over it. When the group breaks, the session ends with it and its calls in flight are sent again. The
next session has no P2P group until a backoff is over that doubles with each failure, so a worker that can be reached
by gRPC only costs a handshake now and then.

An answer is copied out of the P2P group's receive buffer on the link's own thread: the next answer overwrites the
buffer, while the engine may still use this one.

Legend: N bytes.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NoReturn

import grpc
import structlog
import torch
from caracal_proto import expert_pb2, placement_pb2
from torch import Tensor

from services.router.dispatch.errors import CallDamaged, InvalidReply
from services.router.dispatch.grpc_link import GrpcLink, Session, Waiting
from services.router.dispatch.links import ExpertOutput, ExpertRequest
from services.security.channels import PLAIN, Dialer
from services.transport.limits import MAX_ROWS
from services.transport.p2p_group import CALLER, HANDSHAKE_S, P2PBroken, P2PGroup
from services.transport.payload import check_of, payload_bytes
from services.transport.rendezvous_store import MirrorStore

log = structlog.get_logger(__name__)

FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.25, 30.0
STEADY_S = 10.0  # a P2P group that lasted so long resets the backoff


@dataclass(slots=True)
class P2PStats:
    """Counters over all P2P groups of one attention worker, since it started."""

    connected: int = 0
    failed: int = 0  # handshakes that failed
    broken: int = 0
    calls: int = 0  # whose rows went over a P2P group


@dataclass(frozen=True, slots=True)
class P2POptions:
    """What a link needs to connect P2P groups and to size their buffers."""

    host: str  # this side's address, as the worker can reach it
    max_rows: int  # of one step
    max_assignments: int  # (token, expert) assignments of one step
    hidden: int
    dtype: torch.dtype  # of answers
    dispatch_dtype: torch.dtype  # of rows
    device: torch.device
    stats: P2PStats

    @property
    def p2p_rows(self) -> int:
        """The most rows of a call over a P2P group; a larger call goes over gRPC."""
        return min(self.max_rows, MAX_ROWS)

    @property
    def max_bytes(self) -> int:
        """The size of the largest possible answer."""
        return payload_bytes(self.max_assignments, self.hidden, self.dtype)


class NcclLink(GrpcLink):
    """A link over gRPC, whose payload goes over a P2P group while one is connected."""

    def __init__(
        self,
        endpoint: placement_pb2.Endpoint,
        options: P2POptions,
        dialer: Dialer = PLAIN,
    ) -> None:
        super().__init__(endpoint, dialer, options.dispatch_dtype)
        self._options = options
        self._backoff_s, self._retry_at = FIRST_BACKOFF_S, 0.0
        self._connecting: threading.Thread | None = None

    def dispatch(self, request: ExpertRequest) -> Future[ExpertOutput]:
        session = self._open()
        if session.p2p is None and time.monotonic() >= self._retry_at:
            self._start_connecting(session)
        return session.send(request)

    @property
    def p2p_connected(self) -> bool:
        """Whether calls go over a P2P group now."""
        session = self._session
        return isinstance(session, P2PSession) and session.p2p is not None and not session.over

    def connect_p2p(self, timeout_s: float) -> bool:
        """Opens the session and waits for its P2P group; returns whether it is connected."""
        session = self._open()
        if session.p2p is None:
            self._start_connecting(session).join(timeout_s)
        return self.p2p_connected

    def _open(self) -> P2PSession:
        before, session = self._session, super()._open()
        assert isinstance(session, P2PSession)
        if isinstance(before, P2PSession) and before is not session and before.p2p is not None:
            self._options.stats.broken += 1
            log.info("P2P group broke", worker_id=self._endpoint.worker_id, reason=before.ended_by)
            self._back_off(steady=time.monotonic() - before.connected_s > STEADY_S)
        return session

    def _new_session(self) -> Session:
        return P2PSession(self._endpoint, self._dialer, self._options)

    def _start_connecting(self, session: P2PSession) -> threading.Thread:
        """Starts a thread that connects the session's P2P group, or returns the one that is at it."""
        if self._connecting is None or not self._connecting.is_alive():
            self._connecting = threading.Thread(target=self._connect, args=(session,), name="p2p-connect", daemon=True)
            self._connecting.start()
        return self._connecting

    def _connect(self, session: P2PSession) -> None:
        self._retry_at = time.monotonic() + LAST_BACKOFF_S  # no other attempt while this one lasts
        try:
            session.connect_p2p()
        except P2PBroken as error:
            self._options.stats.failed += 1
            log.info("P2P group not connected", worker_id=self._endpoint.worker_id, reason=str(error))
            self._back_off(steady=False)
        else:
            self._options.stats.connected += 1
            self._retry_at = 0.0

    def _back_off(self, steady: bool) -> None:
        self._backoff_s = FIRST_BACKOFF_S if steady else min(LAST_BACKOFF_S, 2 * self._backoff_s)
        self._retry_at = time.monotonic() + self._backoff_s


class P2PSession(Session):
    """A session that may get a P2P group. Once it has one, it ends when the group breaks."""

    def __init__(
        self,
        endpoint: placement_pb2.Endpoint,
        dialer: Dialer,
        options: P2POptions,
    ) -> None:
        self.p2p: P2PGroup | None = None
        self.connected_s = 0.0
        self._options = options
        super().__init__(endpoint, dialer, options.dispatch_dtype)

    def connect_p2p(self) -> None:
        """Connects the P2P group with the worker. Each step takes HANDSHAKE_S at most. Raises P2PBroken."""
        options, store = self._options, MirrorStore(HANDSHAKE_S, CALLER)
        max_bytes = payload_bytes(options.p2p_rows, options.hidden, options.dispatch_dtype)
        on_device = options.device.type != "cpu"
        hello = expert_pb2.RendezvousItem(group=self._id, max_bytes=max_bytes, on_device=on_device)
        try:
            stream = self._stub.Rendezvous(store.outgoing(hello), timeout=4 * HANDSHAKE_S)
        except ValueError as error:  # the channel was closed
            raise P2PBroken(str(error)) from None
        following = threading.Thread(target=store.follow, args=(stream,), name="p2p-store", daemon=True)
        following.start()
        try:
            p2p = P2PGroup.connect(store, CALLER, options.max_bytes, options.device, options.host)
            following.join(HANDSHAKE_S)  # the worker ends the stream when it is ready for calls
            if stream.code() is not grpc.StatusCode.OK:
                p2p.abort()
                raise P2PBroken(f"{stream.code()}: {stream.details()}")
        finally:
            store.end()
            stream.cancel()
        self.connected_s = time.monotonic()
        with self._ending:
            self.p2p = p2p
        if self.over:
            p2p.abort()

    def close(self) -> None:
        self._end("the session was closed")  # at once: the reader may be waiting for a payload

    def _attach(self, message: expert_pb2.ExpertCall, payload_N: Tensor) -> object:
        p2p, assignments = self.p2p, len(message.row) // 4
        if p2p is None or message.rows > self._options.p2p_rows or assignments > self._options.max_assignments:
            return super()._attach(message, payload_N)
        message.p2p_group = self._id
        if payload_N.device.type == "cpu":
            message.checksum = check_of(payload_N)
        else:
            message.unchecked = True
        self._options.stats.calls += 1
        return p2p.send(payload_N)

    def _rows(self, reply: expert_pb2.ExpertReply, waiting: Waiting) -> Tensor:
        if not reply.over_p2p:
            return super()._rows(reply, waiting)
        if self.p2p is None:
            raise P2PBroken("a payload is announced over a P2P group that does not exist")
        payload_N = self.p2p.receive(payload_bytes(*waiting.shape, waiting.dtype))
        if not reply.unchecked and check_of(payload_N.cpu()) != reply.checksum:
            raise CallDamaged(f"the reply of {self._name} fails its checksum")
        return self.p2p.copy(payload_N).view(waiting.dtype).view(waiting.shape)

    def _unexpected(self, reply: expert_pb2.ExpertReply) -> None:
        if reply.over_p2p:
            raise P2PBroken("a payload is announced for a call that was not made")

    def _output(self, reply: expert_pb2.ExpertReply, waiting: Waiting) -> ExpertOutput:
        with self.p2p.beside() if self.p2p is not None else nullcontext():
            return super()._output(reply, waiting)

    def _reject_shape(self, reply: expert_pb2.ExpertReply, why: str) -> NoReturn:
        # The payload's size is unknown now, so neither it nor anything after it can be received.
        raise P2PBroken(why) if reply.over_p2p else InvalidReply(why)

    def _end(self, why: str, damaged: bool = False) -> None:
        super()._end(why, damaged)
        if self.p2p is not None:
            self.p2p.abort()
