"""A link to an expert worker over one bidirectional gRPC stream, the session.

It uses synchronous gRPC: measured against grpc.aio on a loop of its own, a single round trip is as fast or faster, and
the thread that computes hands a message over without taking part in an event loop.

Legend: A (row, expert) assignments of a call, R rows sent to one worker, D hidden, N bytes.
"""

from __future__ import annotations

import secrets
import threading
import time
from concurrent.futures import Future
from itertools import count
from queue import SimpleQueue
from typing import NamedTuple, NoReturn

import grpc
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc, placement_pb2, tensor_pb2
from caracal_proto.tensors import checksum, dtype_name, raw_bytes, view
from torch import Tensor

from services.process.thread_name import name_this_thread
from services.router.dispatch.errors import (
    CallDamaged,
    CallRejected,
    DispatchError,
    InvalidReply,
    NotLoaded,
    StaleEpoch,
    WorkerUnavailable,
)
from services.router.dispatch.links import ExpertOutput, ExpertRequest
from services.security.channels import PLAIN, Dialer
from services.security.identity import EXPERT
from services.security.sealed_calls import is_damage
from services.transport.p2p_group import P2PBroken
from services.transport.payload import pack, payload_bytes

MAX_MESSAGE_BYTES = 1 << 30

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A vanished peer is noticed within seconds, also between calls. The worker's server permits this rate.
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A reopened session connects at once instead of inheriting the broken one's backoff.
    ("grpc.use_local_subchannel_pool", 1),
)


class GrpcLink:
    """A link over gRPC alone. A session that has ended is replaced at the next dispatch."""

    def __init__(
        self,
        endpoint: placement_pb2.Endpoint,
        dialer: Dialer = PLAIN,
        dispatch_dtype: torch.dtype | None = None,
    ) -> None:
        """`dispatch_dtype`: the dtype in which rows are sent; None = the model's."""
        self._endpoint, self._dialer, self._dispatch_dtype = endpoint, dialer, dispatch_dtype
        self._session: Session | None = None
        self._closed = False

    def dispatch(self, request: ExpertRequest) -> Future[ExpertOutput]:
        return self._open().send(request)

    def probe(self, request: ExpertRequest) -> float:
        """Makes a call over a session of its own. Raises DispatchError."""
        session = Session(self._endpoint, self._dialer, self._dispatch_dtype)
        began_s = time.perf_counter()
        try:
            for _ in range(2):  # the first one opens the connection
                began_s = time.perf_counter()
                if not session.send(request).result(request.timeout_s).finite:
                    raise InvalidReply(f"{self.name} answered a probe with rows that are not finite")
        except TimeoutError:
            raise WorkerUnavailable(f"{self.name} has not answered a probe in time") from None
        except (NotLoaded, StaleEpoch):  # which only who is well can answer
            pass
        finally:
            session.close()
        return time.perf_counter() - began_s

    def renew(self, since_s: float) -> None:
        """The next dispatch opens a session; the one that there is ends when the replies to its calls have come."""
        session, self._session = self._session, None
        if session is not None:
            session.finish()

    @property
    def name(self) -> str:
        """The worker, as errors name it."""
        return name_of(self._endpoint)

    def close(self) -> None:
        self._closed = True
        if self._session is not None:
            self._session.close()

    def _open(self) -> Session:
        """Returns the session in use, or a new one when the last has ended."""
        if self._session is None or self._session.over:
            self._session = self._new_session()
            if self._closed:
                self._session.close()
        return self._session

    def _new_session(self) -> Session:
        return Session(self._endpoint, self._dialer, self._dispatch_dtype)


def name_of(endpoint: placement_pb2.Endpoint) -> str:
    """A worker, as errors name it."""
    return f"expert worker {endpoint.worker_id} at {endpoint.address}"


class Waiting(NamedTuple):
    """A call in flight: what its reply must look like, and what must stay in memory until it comes."""

    future: Future[ExpertOutput]
    shape: tuple[int, int]
    dtype: torch.dtype
    sent: object


class Session:
    """One stream, from its opening to its end. A thread of its own reads; gRPC's thread writes."""

    def __init__(
        self,
        endpoint: placement_pb2.Endpoint,
        dialer: Dialer,
        dispatch_dtype: torch.dtype | None,
    ) -> None:
        self.over = False
        self.ended_by = ""
        self._name = name_of(endpoint)
        self._dispatch_dtype = dispatch_dtype
        self._id = secrets.randbits(64)
        self._calls = count(1)
        self._waiting: dict[int, Waiting] = {}
        self._ending = threading.Lock()
        self._outbox: SimpleQueue[expert_pb2.ExpertCall | None] = SimpleQueue()
        self._channel = dialer.threaded(endpoint.address, EXPERT, CHANNEL_OPTIONS)
        self._stub = expert_pb2_grpc.ExpertStub(dialer.to_run(self._channel, endpoint.boot_id))
        self._stream = self._stub.Session(iter(self._outbox.get, None))
        threading.Thread(target=self._read, name=f"link-{endpoint.worker_id}", daemon=True).start()

    def send(self, request: ExpertRequest) -> Future[ExpertOutput]:
        future: Future[ExpertOutput] = Future()
        dispatch_dtype = self._dispatch_dtype or request.x_RD.dtype
        message, payload_N = self._message(request, dispatch_dtype), pack(request.x_RD, dispatch_dtype)
        try:
            sent = self._attach(message, payload_N)
        except P2PBroken as error:
            self._end(str(error))
            sent = None
        x_RD = request.x_RD
        waiting = Waiting(future, (len(request.row_A), x_RD.shape[1]), x_RD.dtype, sent)
        with self._ending:
            if self.over:
                future.set_exception(WorkerUnavailable(f"the session with {self._name} is over"))
            else:
                self._waiting[message.call] = waiting
                self._outbox.put(message)
        return future

    def finish(self) -> None:
        """Makes no further calls: the session ends when the replies to those in flight have come."""
        self._outbox.put(None)

    def close(self) -> None:
        """Ends the stream; the reader then fails what is in flight."""
        self._outbox.put(None)
        self._channel.close()

    def _message(self, request: ExpertRequest, dispatch_dtype: torch.dtype) -> expert_pb2.ExpertCall:
        """Builds a call's message without its payload."""
        return expert_pb2.ExpertCall(
            session=self._id,
            call=next(self._calls),
            step=request.step,
            layer=request.layer,
            epoch=request.epoch,
            deadline_ms=max(1, int(request.timeout_s * 1000)),
            rows=len(request.x_RD),
            x=tensor_pb2.Tensor(shape=request.x_RD.shape, dtype=dtype_name(dispatch_dtype)),
            row=raw_bytes(request.row_A),
            expert=raw_bytes(request.expert_A),
            traceparent=request.traceparent,
        )

    def _attach(self, message: expert_pb2.ExpertCall, payload_N: Tensor) -> object:
        """Puts the payload into the message, or sends it; keeps what it returns until the reply. Raises P2PBroken."""
        data = raw_bytes(payload_N.cpu())
        message.x.data, message.checksum = data, checksum(data)
        return None

    def _read(self) -> None:
        name_this_thread("grpc-link")
        why, damaged = "it ended the session", False
        try:
            for reply in self._stream:
                self._deliver(reply)
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call):
                why, damaged = f"{error.code().name}: {error.details()}", is_damage(error)
            else:
                why = str(error)
        except P2PBroken as error:
            why = f"P2P group: {error}"
        except ValueError as error:
            why = str(error)  # the channel was closed before the stream was read
        self._end(why, damaged)

    def _deliver(self, reply: expert_pb2.ExpertReply) -> None:
        """Completes the call that a reply belongs to. Raises P2PBroken when no further reply can be received."""
        waiting = self._waiting.get(reply.call)
        if waiting is None:
            self._unexpected(reply)
            return
        # Removed only after `_output`: when the P2P group breaks in it, `_end` fails the call with all the others.
        try:
            output: ExpertOutput | DispatchError = self._output(reply, waiting)
        except DispatchError as error:
            output = error
        with self._ending:
            if self._waiting.pop(reply.call, None) is None:
                return  # the session was ended meanwhile
        if isinstance(output, DispatchError):
            waiting.future.set_exception(output)
        else:
            waiting.future.set_result(output)

    def _unexpected(self, reply: expert_pb2.ExpertReply) -> None:
        """Ignores a reply to a call that was given up, or never made."""

    def _output(self, reply: expert_pb2.ExpertReply, waiting: Waiting) -> ExpertOutput:
        if reply.status != expert_pb2.ExpertReply.OK:
            raise _error_of(reply, self._name)
        if tuple(reply.y.shape) != waiting.shape or reply.y.dtype != dtype_name(waiting.dtype):
            self._reject_shape(reply, f"{self._name} answered {list(reply.y.shape)}, asked for {list(waiting.shape)}")
        return ExpertOutput.of(self._rows(reply, waiting))

    def _reject_shape(self, reply: expert_pb2.ExpertReply, why: str) -> NoReturn:
        raise InvalidReply(why)

    def _rows(self, reply: expert_pb2.ExpertReply, waiting: Waiting) -> Tensor:
        """Returns the reply's checked payload, [A, D]. Raises InvalidReply, CallDamaged, P2PBroken."""
        data = reply.y.data
        if len(data) != payload_bytes(*waiting.shape, waiting.dtype):
            raise InvalidReply(f"{self._name} answered {len(data)} bytes for {list(waiting.shape)}")
        if checksum(data) != reply.checksum:
            raise CallDamaged(f"the reply of {self._name} fails its checksum")
        return view(data, waiting.shape, waiting.dtype)

    def _end(self, why: str, damaged: bool = False) -> None:
        """Fails what is in flight. `damaged`: a message was, on its way."""
        with self._ending:
            self.over, self.ended_by = True, self.ended_by or why
            unanswered, self._waiting = self._waiting, {}
        for waiting in unanswered.values():
            message = f"{self._name}: {why}" if damaged else f"{self._name} is gone: {why}"
            waiting.future.set_exception(CallDamaged(message) if damaged else WorkerUnavailable(message))
        self._outbox.put(None)
        self._channel.close()


def _error_of(reply: expert_pb2.ExpertReply, name: str) -> DispatchError:
    message = f"{name}: {reply.message}"
    match reply.status:
        case expert_pb2.ExpertReply.NOT_LOADED:
            return NotLoaded(message, reply.epoch)
        case expert_pb2.ExpertReply.STALE_EPOCH:
            return StaleEpoch(message, reply.epoch)
        case expert_pb2.ExpertReply.INVALID:
            return CallRejected(message)
        case expert_pb2.ExpertReply.DAMAGED:
            return CallDamaged(message)
        case _:
            return WorkerUnavailable(message)
