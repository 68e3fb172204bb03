"""The worker's side of pairs: the rendezvous, and a session's payload over a pair or in its messages.

Legend: N bytes, P (row, expert) pairs, D hidden.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import structlog
import torch
from caracal_proto import expert_pb2
from caracal_proto.tensors import checksum, dtype_name, raw_bytes, view
from torch import Tensor

from services.pair.group import HANDSHAKE_S, WORKER, Pair, PairBroken, Sent
from services.pair.payload import check_of, pack, payload_bytes
from services.pair.store import MirrorStore

log = structlog.get_logger(__name__)

UNCLAIMED_S = 30.0  # a pair that no call has named by then belongs to a caller that is gone
MAX_PAYLOAD_BYTES = 1 << 30


@dataclass(slots=True)
class _Meeting:
    pair: Pair | None
    since: float


class Pairs:
    """Pairs between their rendezvous and the first call that names them. Any thread may use it."""

    def __init__(self, host: str, device: torch.device, limit: int = 128) -> None:
        self._host, self._device, self._limit = host, device, limit
        self._meetings: dict[int, _Meeting] = {}
        self._lock = threading.Lock()

    def rendezvous(
        self, items: Iterator[expert_pb2.PairItem], context: grpc.ServicerContext
    ) -> Iterator[expert_pb2.PairItem]:
        """The Pair call: ends well when this side stands and calls may name it."""
        hello = next(items, expert_pb2.PairItem())
        refusal = self._admit(hello)
        if refusal:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)
        store = MirrorStore(HANDSHAKE_S)
        errors: list[str] = []
        threading.Thread(target=store.follow, args=(items,), name="pair-store", daemon=True).start()
        threading.Thread(target=self._build, args=(hello, store, errors), name="pair", daemon=True).start()
        yield from store.outgoing()
        if errors:
            context.abort(grpc.StatusCode.UNAVAILABLE, errors[0])

    def claim(self, pair: int) -> Pair:
        """The session that names a pair owns it. Raises PairBroken."""
        with self._lock:
            meeting = self._meetings.pop(pair, None)
        if meeting is None or meeting.pair is None:
            raise PairBroken(f"there is no pair {pair:x}")
        return meeting.pair

    def close(self) -> None:
        with self._lock:
            meetings, self._meetings = self._meetings, {}
        for meeting in meetings.values():
            if meeting.pair is not None:
                meeting.pair.abort()

    def _admit(self, hello: expert_pb2.PairItem) -> str:
        """Why a pair is refused; empty when its meeting is noted."""
        now = time.monotonic()
        with self._lock:
            stale = [key for key, one in self._meetings.items() if now - one.since > UNCLAIMED_S]
            left = [self._meetings.pop(key).pair for key in stale]
            if not 0 < hello.max_bytes <= MAX_PAYLOAD_BYTES:
                refusal = f"a pair for calls of {hello.max_bytes} bytes"
            elif hello.on_device and self._device.type == "cpu":
                refusal = "NCCL is asked for, and this worker has no GPU"
            elif hello.pair in self._meetings:
                refusal = f"pair {hello.pair:x} is there already"
            elif len(self._meetings) >= self._limit:
                refusal = f"{len(self._meetings)} pairs wait for their first call"
            else:
                refusal = ""
                self._meetings[hello.pair] = _Meeting(None, now)
        for pair in left:
            if pair is not None:
                pair.abort()
        return refusal

    def _build(self, hello: expert_pb2.PairItem, store: MirrorStore, errors: list[str]) -> None:
        device = self._device if hello.on_device else torch.device("cpu")
        try:
            pair = Pair.meet(store, WORKER, hello.max_bytes, device, self._host)
        except PairBroken as error:
            log.info("no pair", reason=str(error))
            errors.append(str(error))
            with self._lock:
                self._meetings.pop(hello.pair, None)
        else:
            with self._lock:
                self._meetings[hello.pair] = _Meeting(pair, time.monotonic())
        store.end()


class Payloads:
    """How one session's payloads come and go. Its thread alone uses it; `close` ends the session's pair."""

    def __init__(self, pairs: Pairs | None, hidden: int, wire: torch.dtype) -> None:
        self._pairs, self._hidden, self._wire = pairs, hidden, wire
        self._pair: Pair | None = None
        self._name = 0
        self._sent: Sent | None = None

    def take(self, call: expert_pb2.ExpertCall) -> Tensor:
        """uint8 [N]: the call's payload, valid until the next. Raises PairBroken.

        It comes over the pair even for a call that will be refused: whatever was announced is received, in order.
        """
        if not call.pair:
            return view(call.x.data, (len(call.x.data),), torch.uint8)
        pair = self._pair_of(call.pair)
        if tuple(call.x.shape) != (call.rows, self._hidden) or call.x.dtype != dtype_name(self._wire):
            raise PairBroken("a payload of another shape or dtype than this worker's is announced")
        return pair.receive(payload_bytes(call.rows, self._hidden, self._wire))

    def put(self, call: expert_pb2.ExpertCall, reply: expert_pb2.ExpertReply, y_PD: Tensor) -> None:
        """Adds the answer to the reply, or sends it the way the call came. Raises PairBroken."""
        reply.y.dtype = dtype_name(y_PD.dtype)
        reply.y.shape.extend(y_PD.shape)
        if not call.pair:
            data = raw_bytes(y_PD.cpu())
            reply.y.data, reply.checksum = data, checksum(data)
            return
        payload_N = pack(y_PD, y_PD.dtype)
        reply.over_pair = True
        if payload_N.device.type == "cpu":
            reply.checksum = check_of(payload_N)
        else:
            reply.unchecked = True
        self._sent = self._pair_of(call.pair).send(payload_N)

    def settle(self) -> None:
        """After the reply has left: until the caller has taken the answer. Raises PairBroken."""
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.wait()

    def close(self) -> None:
        self._sent = None
        if self._pair is not None:
            self._pair.abort()

    def _pair_of(self, name: int) -> Pair:
        if self._pair is None:
            if self._pairs is None:
                raise PairBroken("this worker makes no pairs")
            self._pair, self._name = self._pairs.claim(name), name
        if name != self._name:
            raise PairBroken(f"pair {name:x} is named in the session of pair {self._name:x}")
        return self._pair
