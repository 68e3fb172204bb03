"""A gRPC session whose payload travels over a pair: NCCL between GPUs, gloo between CPUs.

A session begins as a plain one and serves at once; a thread beside it meets the worker, and from then on calls go over
the pair. When the pair breaks, the session ends with it, what was in call is asked for again by the exchange, and
the next session is a plain one until a pause is over that grows with each failure. So a peer that cannot be reached
except by gRPC costs a handshake now and then and nothing else.

An answer is copied out of the pair's receive buffer on the link's own thread: the buffer is overwritten by the next
answer, while the engine may still hold this one.
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
from caracal_proto import expert_pb2, expert_pb2_grpc, placement_pb2
from torch import Tensor

from services.router.dispatch.grpc_link import GrpcLink, Session, Waiting
from services.router.dispatch.links import Answer, ExpertRequest, InvalidReply
from services.transport.p2p_group import CALLER, HANDSHAKE_S, P2PBroken, P2PGroup
from services.transport.payload import MAX_ROWS, check_of, payload_bytes
from services.transport.rendezvous_store import MirrorStore

log = structlog.get_logger(__name__)

FIRST_PAUSE_S, LAST_PAUSE_S = 0.25, 30.0
STEADY_S = 10.0  # a pair that held so long is tried again as if it were the first


@dataclass(slots=True)
class P2PStats:
    """Of all pairs of one attention worker, since it started."""

    met: int = 0
    failed: int = 0  # handshakes that came to nothing
    broken: int = 0
    calls: int = 0  # whose rows went over a pair


@dataclass(frozen=True, slots=True)
class P2POptions:
    """What a link must know to make pairs. Rows are those of one step, pairs (token, expert) ones."""

    host: str  # of this side, as the worker can reach it
    max_rows: int
    max_pairs: int
    hidden: int
    dtype: torch.dtype  # of answers
    wire: torch.dtype  # of rows
    device: torch.device
    stats: P2PStats

    @property
    def p2p_rows(self) -> int:
        """Of a call that goes over a pair; a larger one goes over gRPC."""
        return min(self.max_rows, MAX_ROWS)

    @property
    def max_bytes(self) -> int:
        """Of an answer with every slot in it."""
        return payload_bytes(self.max_pairs, self.hidden, self.dtype)


class NcclLink(GrpcLink):
    """The session with one worker, over a pair while there is one."""

    def __init__(
        self,
        endpoint: placement_pb2.Endpoint,
        options: P2POptions,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        super().__init__(endpoint, credentials, options.wire)
        self._options = options
        self._pause_s, self._again_s = FIRST_PAUSE_S, 0.0
        self._meeting: threading.Thread | None = None

    def dispatch(self, request: ExpertRequest) -> Future[Answer]:
        session = self._open()
        if session.pair is None and time.monotonic() >= self._again_s:
            self._meet(session)
        return session.send(request)

    @property
    def p2p_connected(self) -> bool:
        """Whether calls go over a pair now."""
        session = self._session
        return isinstance(session, P2PSession) and session.pair is not None and not session.over

    def meet(self, timeout_s: float) -> bool:
        """Opens the session and waits until it is `p2p_connected`; false when that does not come."""
        session = self._open()
        if session.pair is None:
            self._meet(session).join(timeout_s)
        return self.p2p_connected

    def _open(self) -> P2PSession:
        before, session = self._session, super()._open()
        assert isinstance(session, P2PSession)
        if isinstance(before, P2PSession) and before is not session and before.pair is not None:
            self._options.stats.broken += 1
            log.info("a pair broke", worker_id=self._endpoint.worker_id, reason=before.ended_by)
            self._back_off(steady=time.monotonic() - before.met_s > STEADY_S)
        return session

    def _new_session(self) -> Session:
        return P2PSession(self._endpoint, self._credentials, self._options)

    def _meet(self, session: P2PSession) -> threading.Thread:
        """One handshake at a time, on a thread of its own."""
        if self._meeting is None or not self._meeting.is_alive():
            self._meeting = threading.Thread(target=self._try, args=(session,), name="pair", daemon=True)
            self._meeting.start()
        return self._meeting

    def _try(self, session: P2PSession) -> None:
        self._again_s = time.monotonic() + LAST_PAUSE_S  # whatever happens here, not at each call
        try:
            session.meet()
        except P2PBroken as error:
            self._options.stats.failed += 1
            log.info("no pair", worker_id=self._endpoint.worker_id, reason=str(error))
            self._back_off(steady=False)
        else:
            self._options.stats.met += 1
            self._again_s = 0.0

    def _back_off(self, steady: bool) -> None:
        self._pause_s = FIRST_PAUSE_S if steady else min(LAST_PAUSE_S, 2 * self._pause_s)
        self._again_s = time.monotonic() + self._pause_s


class P2PSession(Session):
    """A session that may get a pair. Once it has had one, it ends with it."""

    def __init__(
        self,
        endpoint: placement_pb2.Endpoint,
        credentials: grpc.ChannelCredentials | None,
        options: P2POptions,
    ) -> None:
        self.pair: P2PGroup | None = None
        self.met_s = 0.0
        self._options = options
        super().__init__(endpoint, credentials, options.wire)

    def meet(self) -> None:
        """Meets the worker's side. Blocks for HANDSHAKE_S at most for each of its steps. Raises P2PBroken."""
        options, store = self._options, MirrorStore(HANDSHAKE_S, CALLER)
        max_bytes = payload_bytes(options.p2p_rows, options.hidden, options.wire)
        on_device = options.device.type != "cpu"
        hello = expert_pb2.RendezvousItem(group=self._id, max_bytes=max_bytes, on_device=on_device)
        try:
            stream = expert_pb2_grpc.ExpertStub(self._channel).Rendezvous(
                store.outgoing(hello), timeout=4 * HANDSHAKE_S
            )
        except ValueError as error:  # the channel was closed
            raise P2PBroken(str(error)) from None
        following = threading.Thread(target=store.follow, args=(stream,), name="pair-store", daemon=True)
        following.start()
        try:
            pair = P2PGroup.meet(store, CALLER, options.max_bytes, options.device, options.host)
            following.join(HANDSHAKE_S)  # the worker ends the stream when it is ready for calls
            if stream.code() is not grpc.StatusCode.OK:
                pair.abort()
                raise P2PBroken(f"{stream.code()}: {stream.details()}")
        finally:
            store.end()
            stream.cancel()
        self.met_s = time.monotonic()
        with self._ending:
            self.pair = pair
        if self.over:
            pair.abort()

    def close(self) -> None:
        self._end("the session was closed")  # at once: the reader may be waiting for a payload

    def _load(self, message: expert_pb2.ExpertCall, payload_N: Tensor) -> object:
        pair = self.pair
        if pair is None or message.rows > self._options.p2p_rows or len(message.row) // 4 > self._options.max_pairs:
            return super()._load(message, payload_N)
        message.p2p_group = self._id
        if payload_N.device.type == "cpu":
            message.checksum = check_of(payload_N)
        else:
            message.unchecked = True
        self._options.stats.calls += 1
        return pair.send(payload_N)

    def _rows(self, reply: expert_pb2.ExpertReply, waiting: Waiting) -> Tensor:
        if not reply.over_p2p:
            return super()._rows(reply, waiting)
        if self.pair is None:
            raise P2PBroken("a payload is announced over a pair that does not exist")
        payload_N = self.pair.receive(payload_bytes(*waiting.shape, waiting.dtype))
        if not reply.unchecked and check_of(payload_N.cpu()) != reply.checksum:
            raise InvalidReply(f"the answer of {self._name} fails its checksum")
        return self.pair.copy(payload_N).view(waiting.dtype).view(waiting.shape)

    def _unexpected(self, reply: expert_pb2.ExpertReply) -> None:
        if reply.over_p2p:
            raise P2PBroken("a payload is announced that nobody asked for")

    def _answer(self, reply: expert_pb2.ExpertReply, waiting: Waiting) -> Answer:
        with self.pair.beside() if self.pair is not None else nullcontext():
            return super()._answer(reply, waiting)

    def _misshapen(self, reply: expert_pb2.ExpertReply, why: str) -> NoReturn:
        # How many bytes are on their way is not known now, so nothing after them can be received either.
        raise P2PBroken(why) if reply.over_p2p else InvalidReply(why)

    def _end(self, why: str) -> None:
        super()._end(why)
        if self.pair is not None:
            self.pair.abort()
