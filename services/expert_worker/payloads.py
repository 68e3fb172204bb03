"""One session's payloads: in its messages, or over its pair.

Legend: N bytes, P (row, expert) pairs, D hidden.
"""

from __future__ import annotations

import torch
from caracal_proto import expert_pb2
from caracal_proto.tensors import checksum, dtype_name, raw_bytes, view
from torch import Tensor

from services.expert_worker.p2p_registry import P2PRegistry
from services.transport.p2p_group import P2PBroken, P2PGroup, Sent
from services.transport.payload import check_of, pack, payload_bytes


class Payloads:
    """How one session's payloads come and go. Its thread alone uses it; `close` ends the session's pair."""

    def __init__(self, pairs: P2PRegistry | None, hidden: int, wire: torch.dtype) -> None:
        self._pairs, self._hidden, self._wire = pairs, hidden, wire
        self._pair: P2PGroup | None = None
        self._session = 0  # of the calls; its pair has the same name
        self._sent: Sent | None = None

    def take(self, call: expert_pb2.ExpertCall) -> Tensor:
        """uint8 [N]: the call's payload, valid until the next. Raises P2PBroken.

        It comes over the pair even for a call that will be refused: whatever was announced is received, in order.
        """
        if self._pairs is not None and not self._session:
            self._session = call.session
            self._pairs.enter(self._session)
        if not call.p2p_group:
            return view(call.x.data, (len(call.x.data),), torch.uint8)
        pair = self._pair_of(call.p2p_group)
        if tuple(call.x.shape) != (call.rows, self._hidden) or call.x.dtype != dtype_name(self._wire):
            raise P2PBroken("a payload of another shape or dtype than this worker's is announced")
        return pair.receive(payload_bytes(call.rows, self._hidden, self._wire))

    def put(self, call: expert_pb2.ExpertCall, reply: expert_pb2.ExpertReply, y_AD: Tensor) -> None:
        """Adds the answer to the reply, or sends it the way the call came. Raises P2PBroken."""
        reply.y.dtype = dtype_name(y_AD.dtype)
        reply.y.shape.extend(y_AD.shape)
        if not call.p2p_group:
            data = raw_bytes(y_AD.cpu())
            reply.y.data, reply.checksum = data, checksum(data)
            return
        payload_N = pack(y_AD, y_AD.dtype)
        reply.over_p2p = True
        if payload_N.device.type == "cpu":
            reply.checksum = check_of(payload_N)
        else:
            reply.unchecked = True
        self._sent = self._pair_of(call.p2p_group).send(payload_N)

    def wait_sent(self) -> None:
        """After the reply has left: until the caller has taken the answer. Raises P2PBroken."""
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.wait()

    def close(self) -> None:
        self._sent = None
        if self._pair is not None:
            self._pair.abort()
        if self._pairs is not None:
            self._pairs.leave(self._session)

    def _pair_of(self, name: int) -> P2PGroup:
        if self._pairs is None or name != self._session:
            raise P2PBroken(f"pair {name:x} is not the one of session {self._session:x}")
        if self._pair is None:
            self._pair = self._pairs.claim(name)
        return self._pair
