"""Receives and sends the payloads of one session: inside its gRPC messages, or over its P2P group.

Legend: N bytes, A (row, expert) assignments, D hidden.
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
    """The payloads of one session, used by its thread alone. `close` ends the session's P2P group."""

    def __init__(self, registry: P2PRegistry | None, hidden: int, dispatch_dtype: torch.dtype) -> None:
        self._registry, self._hidden, self._dispatch_dtype = registry, hidden, dispatch_dtype
        self._p2p: P2PGroup | None = None
        self._session = 0  # the calls' session id, which is its P2P group's id too
        self._sent: Sent | None = None

    def take(self, call: expert_pb2.ExpertCall) -> Tensor:
        """The call's payload, uint8 [N], valid until the next `take`. Raises P2PBroken.

        It is received even for a call that will be rejected: what was announced must be received in order.
        """
        if self._registry is not None and not self._session:
            self._session = call.session
            self._registry.enter(self._session)
        if not call.p2p_group:
            return view(call.x.data, (len(call.x.data),), torch.uint8)
        p2p = self._claimed(call.p2p_group)
        if tuple(call.x.shape) != (call.rows, self._hidden) or call.x.dtype != dtype_name(self._dispatch_dtype):
            raise P2PBroken("a payload of another shape or dtype than this worker's is announced")
        return p2p.receive(payload_bytes(call.rows, self._hidden, self._dispatch_dtype))

    def put(self, call: expert_pb2.ExpertCall, reply: expert_pb2.ExpertReply, y_AD: Tensor) -> None:
        """Adds the outputs to the reply, or sends them over the P2P group if the call used it. Raises P2PBroken."""
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
        self._sent = self._claimed(call.p2p_group).send(payload_N)

    def wait_sent(self) -> None:
        """Waits, after the reply has left, until the caller has received the outputs. Raises P2PBroken."""
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.wait()

    def close(self) -> None:
        self._sent = None
        if self._p2p is not None:
            self._p2p.abort()
        if self._registry is not None:
            self._registry.leave(self._session)

    def _claimed(self, group: int) -> P2PGroup:
        if self._registry is None or group != self._session:
            raise P2PBroken(f"P2P group {group:x} does not belong to session {self._session:x}")
        if self._p2p is None:
            self._p2p = self._registry.claim(group)
        return self._p2p
